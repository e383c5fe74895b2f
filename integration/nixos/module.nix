# services.narbor for NixOS: the service, and the firewall.
{ config, lib, ... }:
let
  inherit (lib) mkIf mkOption types;

  cfg = config.services.narbor;

  noProxy = toString config.networking.proxy.noProxy; # "" for null
in
{
  imports = [ ./service.nix ];

  options.services.narbor = {
    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to open {option}`services.narbor.p2pPort` (TCP) and multicast DNS (UDP 5353). Without them
        this machine can still fetch from neighbours that it is told of, but no neighbour finds it.
      '';
    };
  };

  config = mkIf cfg.enable {
    warnings =
      lib.optional (config.networking.proxy.httpProxy != null && !lib.hasInfix "127.0.0.1" noProxy)
        "services.narbor: Nix would ask the HTTP proxy for 127.0.0.1; add it to networking.proxy.noProxy.";

    networking.firewall = mkIf cfg.openFirewall {
      allowedTCPPorts = [ cfg.p2pPort ];
      allowedUDPPorts = [ 5353 ];
    };
  };
}
