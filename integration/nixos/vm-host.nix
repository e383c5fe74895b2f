# For machines with guests: these may find it, and use it as a plain binary cache, if they have no narbor.
{
  config,
  lib,
  ...
}:
let
  inherit (lib)
    mkDefault
    mkIf
    mkOption
    types
    ;

  cfg = config.services.narbor;

  # iptables and nftables write "all that begin with" each in its own way.
  wildcard = if config.networking.nftables.enable then "*" else "+";
in
{
  imports = [ ./module.nix ];

  options.services.narbor.guestInterfaces = mkOption {
    type = types.listOf types.str;
    default = [
      "virbr"
      "vmbr"
      "tap"
      "microvm"
    ];
    description = ''
      What the names of interfaces begin with at which there are guests. The firewall lets these reach narbor, as a neighbour
      and as a binary cache, whatever {option}`services.narbor.openFirewall` is.
    '';
  };

  config = {
    services.narbor = {
      enable = mkDefault true;
      vsock = mkDefault true;
      # libvirt's own network. Guests behind QEMU's user networking need none: 10.0.2.2 is this machine's loopback interface.
      listenAddresses = lib.optional (config.virtualisation.libvirtd.enable or false) "192.168.122.1";
    };

    networking.firewall.interfaces = mkIf cfg.enable (
      lib.genAttrs (map (name: name + wildcard) cfg.guestInterfaces) (_: {
        allowedTCPPorts = [
          cfg.port
          cfg.p2pPort
        ];
        allowedUDPPorts = [ 5353 ];
      })
    );
  };
}
