# services.narbor for system-manager, on other Linux with systemd. It was never tried with system-manager itself: it is tested by
# evaluation only. The ports in the firewall are that system's own matter.
{ config, lib, ... }:
let
  cfg = config.services.narbor;
  target.wantedBy = [ "system-manager.target" ];
in
{
  imports = [ ./service.nix ];

  config = lib.mkIf cfg.enable {
    warnings =
      lib.optional (cfg.configureNix && !config.nix.enable)
        "services.narbor: with nix.enable = false, nix.conf is not written. Add this line to /etc/nix/nix.conf, and set services.narbor.configureNix = false: extra-substituters = http://127.0.0.1:${toString cfg.port}";

    systemd.sockets.narbor = target;
    systemd.services.narbor = target;
    systemd.timers.narbor-refresh = lib.mkIf cfg.refresh target;
  };
}
