{
  description = "MCP sessions that survive: a healing proxy, a supervisor, snapshots and tokens for Serena and other MCP servers";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      # Not x86_64-darwin: nixpkgs has dropped it, and throws where somebody asks for it.
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      forAllSystems = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      packagesFor = pkgs: import ./nix/packages.nix { inherit pkgs lib; };
    in
    {
      packages = forAllSystems (
        pkgs:
        let
          ours = packagesFor pkgs;
        in
        ours.daemons // { default = ours.serena-mcp; } // ours.images
      );

      apps = forAllSystems (
        pkgs:
        import ./nix/apps.nix {
          inherit lib pkgs;
          inherit (packagesFor pkgs) daemons serena-mcp;
        }
      );

      overlays.default =
        final: _previous:
        let
          ours = packagesFor final;
        in
        ours.daemons // { inherit (ours) serena-mcp; };

      nixosModules.default = import ./modules/nixos self;
      homeModules.default = import ./modules/home-manager self;
      # What home-manager's documentation called it before.
      homeManagerModules = self.homeModules;

      devShells = forAllSystems (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { daemons = lib.attrValues (packagesFor pkgs).daemons; };
      });

      checks = forAllSystems (
        pkgs:
        (packagesFor pkgs).daemons
        // import ./tests/nix/checks.nix {
          inherit
            lib
            nixpkgs
            pkgs
            self
            ;
        }
      );

      # Not checks: configurations that must not build.
      legacyPackages = forAllSystems (pkgs: {
        tests.wrong = import ./tests/nix/wrong.nix {
          inherit
            lib
            nixpkgs
            pkgs
            self
            ;
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);
    };
}
