# Rackless for users of Nix: packages, a module for guests, checks that boot machines, a development shell.
#
# Every name of nixpkgs that this file and nix/ use is listed in nix/nixpkgs-names.nix, with where it is documented;
# `nix/evaluate.sh` evaluates all outputs on a stand-in that has these names and no other, `nix/build.sh` builds one check
# on programs of the host. It was never evaluated on nixpkgs itself, which was not at hand where it was written: docs/nixos.md says what that leaves open.
{
  description = "Rackless: whole racks of machines for a test";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      packages = pkgs: import ./nix/packages.nix { inherit pkgs; source = self; };
      check = pkgs: import ./nix/check.nix { inherit pkgs; rackless = packages pkgs; };
      systemsOf = import ./nix/systems.nix {
        inherit lib;
        inherit (nixpkgs.lib) nixosSystem;
        guest = self.nixosModules.guest;
      };
      # The suites, by the one list of them that there is.
      scenarios = map (test: test.name) (builtins.fromTOML (builtins.readFile ./scenarios/Cargo.toml)).test;
    in
    {
      packages = each (pkgs: {
        inherit (packages pkgs) rackless agent tests;
        default = (packages pkgs).rackless;
      });

      nixosModules.guest = import ./nix/guest.nix { agentOf = pkgs: (packages pkgs).agent; };

      # `scenarioCheck pkgs { scenario = "boot"; image = …; }`, for an image of your own: see nix/check.nix.
      lib.scenarioCheck = check;

      checks = each (
        pkgs:
        builtins.listToAttrs (
          map (scenario: {
            name = "${scenario}-nixos";
            value = check pkgs {
              inherit scenario;
              backend = "nixos";
              image = systemsOf.image pkgs;
            };
          }) scenarios
        )
      );

      nixosConfigurations = systemsOf.configurations;

      apps = each (pkgs: {
        demo = {
          type = "app";
          program = "${(packages pkgs).demo}/bin/rackless-demo";
        };
      });

      devShells = each (pkgs: {
        default = import ./nix/shell.nix { inherit pkgs; };
      });

      formatter = each (pkgs: pkgs.nixfmt-rfc-style);
    };
}
