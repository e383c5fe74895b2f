# What the modules for NixOS and system-manager have in common: the service, its socket, and one line in nix.conf.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib) mkIf mkOption types;

  cfg = config.services.narbor;

  mayAsk = config.nix.settings.allowed-users or [ "*" ];

  groupSecret = if cfg.circle.secretFile != null then cfg.circle.secretFile else cfg.groupSecretFile;
  outsideStore = file: lib.hasPrefix "/" file && !lib.hasPrefix builtins.storeDir file;
  circleKeys = cfg.circleKeys ++ map (key: builtins.head (builtins.match "([^:]*).*" key)) cfg.circle.publicKeys;

  # What neither the service nor narbor-refresh needs.
  confined = {
    CapabilityBoundingSet = "";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateMounts = true;
    PrivateTmp = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
  };
in
{
  imports = [ ./common.nix ];

  options.services.narbor = {
    listenAddresses = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.168.122.1" ];
      description = ''
        Further addresses of this machine, IPv6 in brackets, at which Nix may ask on {option}`services.narbor.port`: for guests
        without a narbor of their own. The firewall stays as it is. An address need not be there yet.
      '';
    };

    groupSecretFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/etc/secrets/narbor-group";
      description = ''
        File with the secret of a group, of 16 bytes or more: only machines that have the same one are asked and
        answered. It may be readable to root alone, and must not be in the Nix store. `head -c 32 /dev/urandom | base64`
        makes a secret.
      '';
    };

    circleKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "home-1" ];
      description = ''
        Names of trusted keys. Members of the group may have what was built on this machine, too, if one of these has
        signed it; {option}`nix.settings.secret-key-files` signs all builds. Without these, builds stay here.
      '';
    };

    circle = {
      secretFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/etc/secrets/narbor-group";
        description = ''
          File with the secret of a circle: a group of machines that get each other's own builds. It is a
          {option}`services.narbor.groupSecretFile`, and the same on all members.
        '';
      };
      publicKeys = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "home-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
        description = ''
          Public keys that sign the circle's builds. Nix on this machine believes them: the holder of such a key's secret part
          can run code here.
        '';
      };
      signBuilds = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/etc/secrets/home-1.sec";
        description = ''
          File with the secret signing key of one of {option}`services.narbor.circle.publicKeys`, on machines that build for
          the others: Nix signs all builds with it. `nix-store --generate-binary-cache-key home-1 home-1.sec home-1.pub` makes one.
        '';
      };
    };

    shareSources = mkOption {
      type = types.enum [
        "group"
        "all"
        "none"
      ];
      default = "group";
      description = ''
        Which machines may have sources that Nix has fetched by their hash, without a signature: members of the group (no machine
        outside of one), all, or none. They need to name its hash.
      '';
    };

    refresh = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to remove narbor's negative answers from Nix's narinfo cache when neighbours have come. Without it Nix
        remembers for an hour that narbor did not have a path. A unit that runs as root looks every two minutes.
      '';
    };

    vsock = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the service may use vsock, by which a virtual machine and its host reach each other without a network. The
        modules `guest`, `vm-host` and `installer` set it.
      '';
    };

    inMemory = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to keep everything below /run, which is gone after the next boot. Make {option}`services.narbor.spoolSize` a
        share, such as `50%`: /run itself takes a quarter of memory at most.
      '';
    };
  };

  config = mkIf cfg.enable {
    warnings =
      lib.optional (!lib.elem "*" mayAsk && !lib.elem "narbor" mayAsk)
        "services.narbor: the service may not ask the Nix daemon what the store holds; add \"narbor\" to nix.settings.allowed-users.";

    assertions = [
      {
        assertion = cfg.circle.secretFile == null || cfg.groupSecretFile == null;
        message = "services.narbor.circle.secretFile is the secret of the group: leave out services.narbor.groupSecretFile.";
      }
      {
        assertion = cfg.circle.publicKeys == [ ] || cfg.circle.secretFile != null;
        message = "services.narbor.circle.publicKeys shares builds with the members of the circle: set services.narbor.circle.secretFile, too.";
      }
      {
        assertion = cfg.circle.signBuilds == null || cfg.circle.publicKeys != [ ];
        message = "services.narbor.circle.signBuilds signs for a circle: set services.narbor.circle.publicKeys, too.";
      }
      {
        assertion = lib.all (key: builtins.match "[^: ]+:[A-Za-z0-9+/]{43}=" key != null) cfg.circle.publicKeys;
        message = "services.narbor.circle.publicKeys must be keys such as home-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=, but are ${toString cfg.circle.publicKeys}";
      }
      {
        assertion = lib.all (file: file == null || outsideStore file) [
          cfg.circle.secretFile
          cfg.circle.signBuilds
        ];
        message = "services.narbor.circle.secretFile and signBuilds must be absolute paths outside the Nix store, which all users may read.";
      }
      {
        assertion = cfg.circleKeys == [ ] || groupSecret != null;
        message = "services.narbor.circleKeys shares builds with the members of a group: set services.narbor.groupSecretFile, too.";
      }
      {
        assertion = cfg.groupSecretFile == null || outsideStore cfg.groupSecretFile;
        message = "services.narbor.groupSecretFile must be an absolute path outside the Nix store, which everybody may read.";
      }
      {
        assertion = lib.all (
          a: builtins.match "[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+|\\[[0-9a-fA-F:]+]" a != null
        ) cfg.listenAddresses;
        message = "services.narbor.listenAddresses must be IPv4 addresses, or IPv6 addresses in brackets, without a port: ${toString cfg.listenAddresses}";
      }
      {
        assertion = cfg.inMemory -> lib.hasSuffix "%" cfg.spoolSize;
        message = "services.narbor.inMemory keeps the spool in memory, so services.narbor.spoolSize must be a share of it, such as 50%, but is ${cfg.spoolSize}.";
      }
    ];

    environment.systemPackages = [ cfg.package ];

    nix.settings =
      lib.optionalAttrs (cfg.circle.publicKeys != [ ]) { extra-trusted-public-keys = cfg.circle.publicKeys; }
      // lib.optionalAttrs (cfg.circle.signBuilds != null) { secret-key-files = [ cfg.circle.signBuilds ]; };

    # The socket outlives the service. A refused connection would fail the build of a Nix older than 2.32.
    systemd.sockets.narbor = {
      description = "narbor's port for Nix";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        ListenStream = [
          "127.0.0.1:${toString cfg.port}"
        ]
        ++ lib.optional (config.networking.enableIPv6 or true) "[::1]:${toString cfg.port}"
        ++ map (address: "${address}:${toString cfg.port}") cfg.listenAddresses;
        FreeBind = true;
        TriggerLimitIntervalSec = 0;
      };
    };

    systemd.services.narbor = {
      description = "NARs from your neighbours";
      wantedBy = [ "multi-user.target" ];
      requires = [ "narbor.socket" ];
      after = [
        "narbor.socket"
        "nix-daemon.socket"
      ];
      path = [ config.nix.package ] # asked for its effective configuration
      ++ lib.optional (cfg.gitDirs != [ ]) pkgs.gitMinimal;
      environment = {
        HOME = if cfg.inMemory then "%t/narbor" else "%S/narbor"; # without one, nix does not answer
      }
      // lib.optionalAttrs cfg.inMemory {
        NARBOR_STATE_DIR = "%t/narbor/state"; # which others may not enter, but ask at the socket beside it
      }
      // lib.optionalAttrs (groupSecret != null) {
        NARBOR_GROUP_SECRET_FILE = "%d/group-secret";
      }
      // lib.optionalAttrs (cfg.shareSources != "group") {
        NARBOR_SHARE_SOURCES = cfg.shareSources;
      }
      // lib.optionalAttrs (circleKeys != [ ]) {
        NARBOR_CIRCLE_KEY = builtins.concatStringsSep "," circleKeys;
      };

      # A switch that downloads through narbor must not cut itself off half-way.
      stopIfChanged = false;

      # A service that has hit its start limit takes its socket down with it.
      unitConfig.StartLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify";
        ExecStart = utils.escapeSystemdExecArgs (
          [
            "${cfg.package}/bin/narbor"
            "run"
            "--config"
            "${cfg.configFile}"
          ]
          ++ cfg.extraFlags
        );
        Restart = "always";
        RestartSec = 1;
        WatchdogSec = 60; # narbor says that it is well as long as it answers itself as it would answer Nix
        TimeoutStopSec = 20; # it drains for 10
        # Neighbours and Nix wait for its answers; beside builds it comes first.
        CPUWeight = 300;
        IOWeight = 300;

        DynamicUser = true;
        RuntimeDirectory = "narbor";
        UMask = "0077";
        # For narbor.peers=: of /proc the service sees processes alone.
        LoadCredential = [
          "kernel-cmdline:/proc/cmdline"
        ]
        ++ lib.optional (groupSecret != null) "group-secret:${groupSecret}";

        PrivateUsers = true;
        ProtectHome = true;
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK" # tells of interfaces that come and go
        ]
        ++ lib.optional cfg.vsock "AF_VSOCK";
      }
      // confined
      // (
        if cfg.inMemory then
          { RuntimeDirectoryPreserve = "restart"; }
        else
          {
            StateDirectory = "narbor";
            StateDirectoryMode = "0700";
          }
      );
    };

    systemd.services.narbor-refresh = mkIf cfg.refresh {
      description = "Remove narbor's outdated negative answers from Nix's narinfo cache";
      after = [ "narbor.service" ];
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${cfg.package}/bin/narbor refresh --new-neighbours --socket /run/narbor/narbor.sock";
        SuccessExitStatus = 3; # narbor does not run
        TimeoutStartSec = 60;
        Nice = 10;
        UMask = "0077";
        PrivateNetwork = true;
        ProtectHome = "read-only";
        ReadWritePaths = "-/root/.cache/nix";
        RestrictAddressFamilies = "AF_UNIX";
      }
      // confined;
    };

    systemd.timers.narbor-refresh = mkIf cfg.refresh {
      description = "Remove narbor's outdated negative answers from Nix's narinfo cache";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnActiveSec = "1min";
        OnUnitActiveSec = "2min";
        AccuracySec = "1min";
      };
    };
  };
}
