# services.narbor for Home Manager: a service of one user, for a Nix without a daemon. It was never tried with Home Manager itself:
# it is tested by evaluation only.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.narbor;

  # As systemd reads a command line.
  escape =
    args:
    builtins.concatStringsSep " " (
      map (a: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString a))) args
    );

  # Nix is asked for its effective configuration, wherever it is.
  programs =
    lib.optional (config.nix.package != null) "${config.nix.package}/bin"
    ++ lib.optional (cfg.gitDirs != [ ]) "${pkgs.gitMinimal}/bin"
    ++ [
      "%h/.nix-profile/bin"
      "/nix/var/nix/profiles/default/bin"
      "/run/current-system/sw/bin"
      "/usr/local/bin"
      "/usr/bin"
      "/bin"
    ];
in
{
  imports = [ ./common.nix ];

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = pkgs.stdenv.hostPlatform.isLinux;
        message = "services.narbor: the module for Home Manager makes units of systemd, which are for Linux. On a Mac, use the module for nix-darwin.";
      }
    ];

    home.packages = [ cfg.package ];

    # The socket outlives the service. A refused connection would fail the build of a Nix older than 2.32.
    systemd.user.sockets.narbor = {
      Unit.Description = "narbor's port for Nix";
      Socket = {
        ListenStream = [ "127.0.0.1:${toString cfg.port}" ];
        FreeBind = true;
        TriggerLimitIntervalSec = 0;
      };
      Install.WantedBy = [ "sockets.target" ];
    };

    systemd.user.services.narbor = {
      Unit = {
        Description = "NARs from your neighbours";
        Requires = [ "narbor.socket" ];
        After = [ "narbor.socket" ];
        StartLimitIntervalSec = 0; # a service that has hit its start limit takes its socket down with it
      };
      Service = {
        Type = "notify";
        ExecStart = escape (
          [
            "${cfg.package}/bin/narbor"
            "run"
            "--config"
            "${cfg.configFile}"
          ]
          ++ cfg.extraFlags
        );
        Environment = [ "PATH=${builtins.concatStringsSep ":" programs}" ];
        Restart = "always";
        RestartSec = 1;
        WatchdogSec = 60;
        TimeoutStopSec = 20; # it drains for 10
        UMask = "0077";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
      };
      Install.WantedBy = [ "default.target" ];
    };
  };
}
