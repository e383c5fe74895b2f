# Evaluates a module once for each of cases, which are modules themselves; for is the flake's output that has it. The result fits
# into JSON: for each case { success; value; }, where value holds what the module may have changed.
for: module: cases:
let
  lib = import ./lib.nix;
  pkgs = import ./pkgs.nix {
    inherit lib;
    system = "x86_64-linux";
  };

  # As NixOS does it, but for characters that need none of it.
  utils.escapeSystemdExecArgs =
    args:
    builtins.concatStringsSep " " (
      map (a: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString a))) args
    );

  option =
    type: default:
    lib.mkOption {
      inherit type default;
      description = "NixOS's own.";
    };

  inherit (lib) types;

  everywhere = {
    assertions = option (types.listOf types.anything) [ ];
    warnings = option (types.listOf types.str) [ ];
    nix.settings = option types.anything { };
  };

  # The options of each system that its module reads or sets. There are no others.
  systems = {
    nixosModules = {
      environment.systemPackages = option (types.listOf types.package) [ ];
      networking = {
        enableIPv6 = option types.bool true;
        firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
        firewall.allowedUDPPorts = option (types.listOf types.port) [ ];
        firewall.interfaces = option types.anything { };
        nftables.enable = option types.bool false;
        proxy.httpProxy = option (types.nullOr types.str) null;
        proxy.noProxy = option (types.nullOr types.str) null;
      };
      nix.package = option types.package pkgs.nix;
      systemd.services = option types.anything { };
      systemd.sockets = option types.anything { };
      systemd.timers = option types.anything { };
      virtualisation.libvirtd.enable = option types.bool false;
    };
    darwinModules = {
      environment.systemPackages = option (types.listOf types.package) [ ];
      launchd.daemons = option types.anything { };
      nix.enable = option types.bool true;
      nix.package = option types.package pkgs.nix;
      users = option types.anything { };
    };
    homeModules = {
      home.packages = option (types.listOf types.package) [ ];
      nix.package = option (types.nullOr types.package) null;
      systemd.user.services = option types.anything { };
      systemd.user.sockets = option types.anything { };
    };
    systemManagerModules = {
      environment.systemPackages = option (types.listOf types.package) [ ];
      networking.enableIPv6 = option types.bool true;
      nix.enable = option types.bool false;
      nix.package = option types.package pkgs.nix;
      systemd.services = option types.anything { };
      systemd.sockets = option types.anything { };
      systemd.timers = option types.anything { };
    };
  };

  # The options below a name, as a list, without those that are internal.
  documented =
    name: o:
    if (o._type or null) != "option" then
      lib.concatMap (sub: documented "${name}.${sub}" o.${sub}) (builtins.attrNames o)
    else if o.internal or false then
      [ ]
    else
      [
        {
          inherit name;
          inherit (o) description;
          values = lib.optionalAttrs (o.type.name != "package") (
            builtins.intersectAttrs {
              default = null;
              example = null;
            } o
          );
        }
      ];

  evaluate =
    case:
    let
      result = lib.evalModules {
        modules = [
          { options = lib.recursiveUpdate everywhere systems.${for}; }
          module
          case
        ];
        specialArgs = {
          inherit pkgs;
        }
        // lib.optionalAttrs (for == "nixosModules" || for == "systemManagerModules") { inherit utils; };
      };
      undescribed = builtins.filter (
        name:
        let
          o = result.options.services.narbor.${name};
        in
        (o._type or null) == "option" && !(o ? type && o ? description)
      ) (builtins.attrNames result.options.services.narbor);
    in
    {
      inherit (result.config) assertions warnings;
      launchd = result.config.launchd or { };
      networking = result.config.networking or { };
      systemd = result.config.systemd or { };
      users = result.config.users or { };
      # What fails, as NixOS says it.
      failed = map (a: a.message) (builtins.filter (a: !a.assertion) result.config.assertions);
      inherit (result.config.services.narbor) settings;
      check = lib.optionalString result.config.services.narbor.enable result.config.services.narbor.configFile.script;
      inherit undescribed;
      documented = documented "services.narbor" result.options.services.narbor;
      nix = { inherit (result.config.nix) settings; };
      systemPackages = map (p: p.name) (
        if for == "homeModules" then result.config.home.packages else result.config.environment.systemPackages
      );
      options = builtins.attrNames result.options.services.narbor;
      package = {
        inherit (result.config.services.narbor.package) name;
        src = map baseNameOf result.config.services.narbor.package.args.src.fileset;
        args = removeAttrs result.config.services.narbor.package.args [
          "src"
          "nativeBuildInputs"
        ];
      };
    };
in
map (
  case:
  let
    value = evaluate case;
  in
  builtins.tryEval (builtins.deepSeq value value)
) cases
