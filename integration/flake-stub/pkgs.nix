# The few packages and builders that the flake names. Derivations are real, but nobody builds them.
{ lib, system }:
let
  fake =
    name: extra:
    derivation {
      inherit name system;
      builder = "/bin/sh";
    }
    // extra;

  platform = {
    inherit system;
    isLinux = builtins.match ".*-linux" system != null;
    canExecute = _: true;
  };

  pkgs = {
    inherit lib;
    stdenv = {
      hostPlatform = platform;
      buildPlatform = platform;
    };
    gitMinimal = fake "git" { };
    go = fake "go" { };
    gopls = fake "gopls" { };
    nix = fake "nix" { };
    installShellFiles = fake "install-shell-files" { };
    mkShell = args: fake "nix-shell" { inherit args; };
    buildGoModule = args: fake "${args.pname}-${args.version}" { inherit args; inherit (args) meta; };
    runCommand = name: args: script: fake name { inherit args script; };
    testers.runNixOSTest = test: fake "vm-test" { nodes = builtins.attrNames (test { inherit lib pkgs; }).nodes; };
    callPackage = f: args: f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // args);
  };
in
pkgs
