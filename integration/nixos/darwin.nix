# services.narbor for nix-darwin. It was never tried on a Mac: it is tested by evaluation only.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.narbor;
  state = "/var/lib/narbor";
in
{
  imports = [ ./common.nix ];

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.nix.enable;
        message = "services.narbor needs nix.enable, or add http://127.0.0.1:${toString cfg.port} to extra-substituters in nix.conf and set services.narbor.configureNix = false.";
      }
    ];

    environment.systemPackages = [ cfg.package ];

    users.users._narbor = {
      uid = lib.mkDefault 6272;
      gid = lib.mkDefault 6272;
      description = "narbor";
      home = state;
      createHome = true;
      isHidden = true;
    };
    users.groups._narbor.gid = lib.mkDefault 6272;
    users.knownUsers = [ "_narbor" ];
    users.knownGroups = [ "_narbor" ];

    launchd.daemons.narbor = {
      path = [ config.nix.package ] # asked for its effective configuration
      ++ lib.optional (cfg.gitDirs != [ ]) pkgs.gitMinimal;
      environment = {
        HOME = state; # without one, nix does not answer
        NARBOR_STATE_DIR = state;
      };
      command = lib.escapeShellArgs (
        [
          "${cfg.package}/bin/narbor"
          "run"
          "--config"
          "${cfg.configFile}"
          "--listen"
          "127.0.0.1:${toString cfg.port}"
          "--listen"
          "[::1]:${toString cfg.port}"
        ]
        ++ cfg.extraFlags
      );
      serviceConfig = {
        Label = "org.narbor.narbor";
        UserName = "_narbor";
        GroupName = "_narbor";
        Umask = 63; # 0077
        RunAtLoad = true;
        KeepAlive = true;
        ThrottleInterval = 1;
        StandardErrorPath = "${state}/narbor.log";
        StandardOutPath = "${state}/narbor.log";
      };
    };
  };
}
