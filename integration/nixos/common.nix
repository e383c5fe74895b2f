# What all modules have in common: options, and the file for `narbor run --config`.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkDefault
    mkEnableOption
    mkIf
    mkOption
    mkPackageOption
    types
    ;

  cfg = config.services.narbor;

  # The service gets these from elsewhere, so the file must not have them.
  elsewhere = {
    config = "this is that file";
    listen = "use services.narbor.port and services.narbor.listenAddresses";
    socket = "the service manager chooses it";
    state-dir = "the service manager chooses it";
  }
  // lib.optionalAttrs (cfg ? groupSecretFile) {
    group-secret-file = "use services.narbor.groupSecretFile, which need not be readable to the service";
  };

  # The caches that Nix asks besides, as far as narbor can ask them, and neighbours could. A list may be one string, too.
  substituters =
    let
      words = v: builtins.filter (w: lib.isString w && w != "") (lib.concatMap (builtins.split "[[:space:]]+") (lib.toList v));
      bare = url: lib.removeSuffix "/" (builtins.head (builtins.split "[?]" url)); # without ?priority=…
      own = map (host: "http://${host}:${toString cfg.port}") (
        [
          "127.0.0.1"
          "[::1]"
          "localhost"
        ]
        ++ cfg.listenAddresses or [ ]
      );
      asked = words (config.nix.settings.substituters or [ ]) ++ words (config.nix.settings.extra-substituters or [ ]);
    in
    builtins.filter (url: isHTTP url && !lib.elem url own && !lib.hasInfix "@" url) (lib.unique (map bare asked));

  isHTTP = url: lib.hasPrefix "http://" url || lib.hasPrefix "https://" url;
  upstreams = if cfg.upstreams == "auto" then substituters else cfg.upstreams;

  unlessEmpty = name: value: lib.optionalAttrs (value != [ ]) { ${name} = mkDefault value; };
in
{
  options.services.narbor = {
    enable = mkEnableOption "narbor, which lets Nix fetch store paths from neighbours on the local network";

    package = mkPackageOption pkgs "narbor" { };

    port = mkOption {
      type = types.port;
      default = 6272;
      description = "TCP port on this machine at which Nix asks narbor.";
    };

    p2pPort = mkOption {
      type = types.port;
      default = 6273;
      description = "TCP port at which neighbours reach this machine.";
    };

    configureNix = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to add narbor to {option}`nix.settings.extra-substituters`.";
    };

    name = mkOption {
      type = types.str;
      default = "";
      example = "laptop";
      description = ''
        Name that neighbours are told, and show beside the ID of this machine: letters, digits, hyphens and full stops. Empty:
        they are told none.
      '';
    };

    share = mkOption {
      type = types.enum [
        "signed"
        "none"
      ];
      default = "signed";
      description = ''
        What neighbours may fetch from this machine: `signed` is every path that a public key has signed and that was not
        built here, `none` is nothing. See {option}`services.narbor.shareKeys`.
      '';
    };

    shareKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "cache.example.org-1" ];
      description = ''
        Names of trusted keys that are public: every neighbour may have what they have signed. `cache.nixos.org-1` is
        public anyway, and so are keys that are called after the host of an https substituter that needs no password. What
        only other keys have signed is for members of the group alone; see {option}`services.narbor.groupSecretFile`.
      '';
    };

    peers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "nas.example.org"
        "192.168.1.5:6273"
      ];
      description = ''
        Neighbours that multicast does not find: host names, IP addresses or multiaddrs, with or without a
        port.
      '';
    };

    interfaces = {
      allow = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "en*" ];
        description = "Patterns of network interfaces to use, and no others. Empty: narbor chooses.";
      };

      deny = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "wg*" ];
        description = "Patterns of network interfaces never to use, besides those that narbor leaves alone anyway.";
      };
    };

    trustedPublicKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      description = ''
        Keys to believe besides {option}`nix.settings.trusted-public-keys`, which narbor reads by itself. Nix
        has the last word: it refuses what no key of its own has signed.
      '';
    };

    spoolSize = mkOption {
      type = types.str;
      default = "4GiB";
      example = "25%";
      description = "How much disk verified NARs may take while they wait for Nix; a share is one of the file system that they are on.";
    };

    minFreeDisk = mkOption {
      type = types.str;
      default = "2GiB";
      example = "5%";
      description = "How much disk narbor leaves free; a share is one of the file system of its spool.";
    };

    uploadRate = mkOption {
      type = types.str;
      default = "0";
      example = "10MB";
      description = "How much of archives neighbours are sent in a second at most, all together. 0 is no limit.";
    };

    downloadRate = mkOption {
      type = types.str;
      default = "0";
      example = "2MB";
      description = "How much of archives, as they are compressed, upstreams send in a second at most, all together. 0 is no limit.";
    };

    upstreams = mkOption {
      type = types.oneOf [
        (types.enum [ "auto" ])
        (types.listOf types.str)
      ];
      default = [ ];
      example = "auto";
      description = ''
        Caches on the internet that narbor asks, in this order, for what no neighbour has. Their keys must be trusted.
        `"auto"` is those that Nix asks besides narbor: {option}`nix.settings.substituters` and `extra-substituters`, as far
        as they are reached by http or https and their URL has no password.
      '';
    };

    cacheDirs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/nix-cache" ];
      description = "Directories in the layout of `nix copy --to file://…` to share besides the Nix store.";
    };

    gitDirs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/nixpkgs.git" ];
      description = ''
        Git repositories, bare or not, whose commits are sources: members of the group get them as flake inputs and `fetchGit`
        name them, by {option}`services.narbor.shareSources`. The service must be able to read them.
      '';
    };

    gitRefs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "refs/heads/nixos-*" ];
      description = ''
        Patterns for the refs of {option}`services.narbor.gitDirs` whose commits are shared. Without these, they are those of all
        branches.
      '';
    };

    dashboard.enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to serve a page for people, an API and metrics beside the cache, which every user of this machine can see.
      '';
    };

    logLevel = mkOption {
      type = types.enum [
        "debug"
        "info"
        "warn"
        "error"
      ];
      default = "info";
      description = "The least important messages to log.";
    };

    extraFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "--no-mdns" ];
      description = "More flags for `narbor run`.";
    };

    settings = mkOption {
      type = types.attrsOf (
        types.oneOf [
          types.bool
          types.int
          types.str
          (types.listOf types.str)
        ]
      );
      default = { };
      example = {
        no-mdns = true;
        allow-host = [ "builder.lan" ];
      };
      description = ''
        Flags of `narbor run` by name; `narbor run --help` lists them. The other options here are in it already, and what is
        set here has precedence. It is checked when the system is built.
      '';
    };

    configFile = mkOption {
      type = types.package;
      internal = true;
      readOnly = true;
      description = "The settings, as `narbor run --config` reads them.";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.port != cfg.p2pPort;
        message = "services.narbor.port and services.narbor.p2pPort are both ${toString cfg.port}: Nix and neighbours need a port each. Change one.";
      }
      {
        assertion = !lib.any (lib.hasPrefix "--config") cfg.extraFlags;
        message = "services.narbor.extraFlags has --config, which would replace all other options: put what is in that file into services.narbor.settings.";
      }
      {
        assertion = lib.all (lib.hasPrefix "/") cfg.gitDirs;
        message = "services.narbor.gitDirs must be absolute paths, but is ${toString cfg.gitDirs}.";
      }
      {
        assertion = lib.all (lib.hasPrefix "/") cfg.cacheDirs;
        message = "services.narbor.cacheDirs must be absolute paths, but is ${toString cfg.cacheDirs}.";
      }
      {
        assertion = lib.all (peer: !lib.hasInfix "," peer && !lib.hasInfix " " peer) cfg.peers;
        message = "services.narbor.peers: make each address an element of the list, without commas and spaces: ${toString cfg.peers}";
      }
      {
        assertion = lib.all isHTTP upstreams;
        message = "services.narbor.upstreams must be \"auto\" or URLs such as https://cache.nixos.org, but is ${toString cfg.upstreams}.";
      }
    ]
    ++ lib.mapAttrsToList (name: fix: {
      assertion = !lib.hasAttr name cfg.settings;
      message = "services.narbor.settings must not have ${name}: ${fix}.";
    }) elsewhere;

    warnings =
      lib.optional (!(config.nix.settings.require-sigs or true))
        "services.narbor: with nix.settings.require-sigs = false Nix believes whatever anybody sends it. Remove that line."
      ++
        lib.optional
          (lib.any (lib.hasPrefix "http://127.0.0.1:${toString cfg.port}") (config.nix.settings.substituters or [ ]))
          "services.narbor: nixos-anywhere copies nix.settings.substituters to machines that have no narbor yet. Remove narbor from it; services.narbor.configureNix uses extra-substituters.";

    services.narbor.settings = {
      port = mkDefault cfg.p2pPort;
      share = mkDefault cfg.share;
      spool-size = mkDefault cfg.spoolSize;
      min-free = mkDefault cfg.minFreeDisk;
      upload-rate = mkDefault cfg.uploadRate;
      log-level = mkDefault cfg.logLevel;
    }
    // lib.optionalAttrs (cfg.downloadRate != "0") { download-rate = mkDefault cfg.downloadRate; }
    // lib.optionalAttrs (cfg.name != "") { name = mkDefault cfg.name; }
    // lib.optionalAttrs (!cfg.dashboard.enable) { no-page = mkDefault true; }
    // unlessEmpty "peer" cfg.peers
    // unlessEmpty "interface" cfg.interfaces.allow
    // unlessEmpty "no-interface" cfg.interfaces.deny
    // unlessEmpty "trusted-key" cfg.trustedPublicKeys
    // unlessEmpty "share-key" cfg.shareKeys
    // unlessEmpty "upstream" upstreams
    // unlessEmpty "cache-dir" cfg.cacheDirs
    // unlessEmpty "git-dir" cfg.gitDirs
    // unlessEmpty "git-refs" cfg.gitRefs;

    services.narbor.configFile =
      pkgs.runCommand "narbor.json"
        {
          settings = builtins.toJSON cfg.settings;
          passAsFile = [ "settings" ];
        }
        ''
          ${lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
            ${cfg.package}/bin/narbor config check "$settingsPath"
          ''}
          cp "$settingsPath" "$out"
        '';

    # extra-substituters and not substituters: NixOS writes it last, so that no other module's list hides it, and
    # nixos-anywhere does not copy it to a machine that has no narbor yet.
    nix.settings = mkIf cfg.configureNix {
      extra-substituters = [ "http://127.0.0.1:${toString cfg.port}" ];
    };
  };
}
