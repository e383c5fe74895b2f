# services.narbor: the service, its socket, the firewall, and one line in nix.conf.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkOption
    mkPackageOption
    types
    ;

  cfg = config.services.narbor;

  each = flag: lib.concatMap (value: [ "--${flag}=${value}" ]);

  flags = [
    "--port=${toString cfg.p2pPort}"
    "--share=${cfg.share}"
    "--spool-size=${cfg.spoolSize}"
    "--min-free=${cfg.minFree}"
    "--upload-rate=${cfg.uploadRate}"
    "--log-level=${cfg.logLevel}"
  ]
  ++ each "peer" cfg.peers
  ++ each "interface" cfg.interfaces.allow
  ++ each "no-interface" cfg.interfaces.deny
  ++ each "trusted-key" cfg.trustedPublicKeys
  ++ each "cache-dir" cfg.cacheDirs
  ++ cfg.extraFlags;

  noProxy = toString config.networking.proxy.noProxy; # "" for null
in
{
  options.services.narbor = {
    enable = mkEnableOption "narbor, which lets Nix fetch store paths from neighbours on the local network";

    package = mkPackageOption pkgs "narbor" { };

    port = mkOption {
      type = types.port;
      default = 6272;
      description = "TCP port on 127.0.0.1 and ::1 at which Nix asks narbor.";
    };

    p2pPort = mkOption {
      type = types.port;
      default = 6273;
      description = "TCP port at which neighbours reach this machine.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to open {option}`services.narbor.p2pPort` (TCP) and multicast DNS (UDP 5353). Without them
        this machine can still fetch from neighbours that it is told of, but nobody finds it.
      '';
    };

    configureNix = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to add narbor to {option}`nix.settings.extra-substituters`.";
    };

    share = mkOption {
      type = types.enum [
        "signed"
        "none"
      ];
      default = "signed";
      description = ''
        What neighbours may fetch from this machine: `signed` is every path with a signature of one of this
        machine's trusted upstream keys, `none` is nothing.
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

    spoolSize = mkOption {
      type = types.str;
      default = "4GiB";
      description = "How much disk verified NARs may take while they wait for Nix.";
    };

    minFree = mkOption {
      type = types.str;
      default = "2GiB";
      description = "How much disk narbor leaves free.";
    };

    uploadRate = mkOption {
      type = types.str;
      default = "0";
      example = "10MB";
      description = "How much of archives neighbours are sent in a second at most, all together. 0 is no limit.";
    };

    cacheDirs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/nix-cache" ];
      description = "Directories in the layout of `nix copy --to file://…` to share besides the Nix store.";
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
  };

  config = mkIf cfg.enable {
    warnings =
      lib.optional (config.networking.proxy.httpProxy != null && !lib.hasInfix "127.0.0.1" noProxy)
        "services.narbor: Nix would ask the HTTP proxy for 127.0.0.1; add it to networking.proxy.noProxy.";

    assertions = lib.optional (cfg.groupSecretFile != null) {
      assertion = lib.hasPrefix "/" cfg.groupSecretFile && !lib.hasPrefix builtins.storeDir cfg.groupSecretFile;
      message = "services.narbor.groupSecretFile must be an absolute path outside the Nix store, which everybody may read.";
    };

    environment.systemPackages = [ cfg.package ];

    # extra-substituters and not substituters: NixOS writes it last, so that no other module's list hides it.
    nix.settings = mkIf cfg.configureNix {
      extra-substituters = [ "http://127.0.0.1:${toString cfg.port}" ];
    };

    networking.firewall = mkIf cfg.openFirewall {
      allowedTCPPorts = [ cfg.p2pPort ];
      allowedUDPPorts = [ 5353 ];
    };

    # The socket outlives the service. A refused connection would fail the build of a Nix older than 2.32.
    systemd.sockets.narbor = {
      description = "narbor's port for Nix";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        ListenStream = [
          "127.0.0.1:${toString cfg.port}"
        ]
        ++ lib.optional config.networking.enableIPv6 "[::1]:${toString cfg.port}";
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
      path = [ config.nix.package ]; # asked for its effective configuration
      environment = {
        HOME = "%S/narbor"; # without one, nix does not answer
      }
      // lib.optionalAttrs (cfg.groupSecretFile != null) {
        NARBOR_GROUP_SECRET_FILE = "%d/group-secret";
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
          ]
          ++ flags
        );
        Restart = "always";
        RestartSec = 1;
        WatchdogSec = 60; # narbor says that it is well as long as it answers itself as it would answer Nix
        TimeoutStopSec = 20; # it drains for 10

        DynamicUser = true;
        StateDirectory = "narbor";
        StateDirectoryMode = "0700";
        RuntimeDirectory = "narbor";
        UMask = "0077";
        # For narbor.peers=: of /proc the service sees processes alone.
        LoadCredential = [
          "kernel-cmdline:/proc/cmdline"
        ]
        ++ lib.optional (cfg.groupSecretFile != null) "group-secret:${cfg.groupSecretFile}";

        CapabilityBoundingSet = "";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateMounts = true;
        PrivateTmp = true;
        PrivateUsers = true;
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK" # tells of interfaces that come and go
        ];
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
    };
  };
}
