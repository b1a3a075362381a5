{
  description = "a stand-in for nixpkgs where neither GitHub nor the Nix cache can be reached";
  outputs =
    _:
    let
      host = builtins.fromJSON (builtins.readFile ./host.json);
      plain = import ./lib.nix;
      pkgsFor = system: import ./pkgs.nix { inherit lib system host; };
      lib = plain // {
        homeManagerConfiguration = import ./home.nix {
          lib = plain;
          inherit pkgsFor;
        };
        nixosSystem = import ./nixos.nix {
          lib = plain;
          inherit pkgsFor;
        };
      };
    in
    {
      inherit lib;
      legacyPackages = plain.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ] pkgsFor;
    };
}
