{
  description = "NARs from your neighbours: a Nix substituter for the local network";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      eachSystem = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];

      version = "0.1.1-${self.shortRev or "dirty"}";

      narbor =
        {
          lib,
          stdenv,
          buildGoModule,
          installShellFiles,
        }:
        buildGoModule {
          pname = "narbor";
          inherit version;

          src = lib.fileset.toSource {
            root = ./.;
            fileset = lib.fileset.unions [
              ./go.mod
              ./go.sum
              ./cmd
              ./narserve
              ./p2p
              ./store
              ./trust
            ];
          };

          # After a change to go.mod or to what is imported: ./integration/check --fix-vendor-hash
          vendorHash = "sha256-dsxHGCSUjpNUZpkulcVl6vP/RInfeOmnHLvfgV/jVTc=";

          subPackages = [ "cmd/narbor" ];
          env.CGO_ENABLED = 0;
          ldflags = [
            "-s"
            "-w"
            "-X main.version=${version}"
          ];

          nativeBuildInputs = [ installShellFiles ];
          postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
            for shell in bash zsh fish; do
              $out/bin/narbor completion $shell >narbor.$shell
            done
            installShellCompletion narbor.{bash,zsh,fish}
          '';

          meta = {
            description = "Fetches NARs from neighbours on the local network";
            license = lib.licenses.mit;
            mainProgram = "narbor";
            platforms = lib.platforms.unix;
          };
        };

      # module adds this flake's package, once: several may be imported together.
      module = file: {
        imports = [
          file
          (
            { lib, pkgs, ... }:
            {
              key = "narbor's package";
              services.narbor.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
            }
          )
        ];
      };
    in
    {
      packages = eachSystem (system: {
        default = nixpkgs.legacyPackages.${system}.callPackage narbor { };
      });

      apps = eachSystem (system: {
        default = {
          type = "app";
          program = "${self.packages.${system}.default}/bin/narbor";
        };
      });

      devShells = eachSystem (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          default = pkgs.mkShell {
            packages = [
              pkgs.go
              pkgs.gopls
            ];
          };
        }
      );

      overlays.default = final: _: { narbor = final.callPackage narbor { }; };

      nixosModules = {
        default = module ./integration/nixos/module.nix;
        installer = module ./integration/nixos/installer.nix;
        guest = module ./integration/nixos/guest.nix;
        vm-host = module ./integration/nixos/vm-host.nix;
      };

      darwinModules.default = module ./integration/nixos/darwin.nix;
      homeModules.default = module ./integration/nixos/home.nix;
      systemManagerModules.default = module ./integration/nixos/system-manager.nix;

      # Needs KVM, and is not among what ./integration/check runs: nix build .#checks.x86_64-linux.machines
      checks = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: {
        machines = nixpkgs.legacyPackages.${system}.testers.runNixOSTest (
          import ./integration/nixos/vm-test.nix self.nixosModules.default
        );
      });
    };
}
