{
  description = "Revolve: a handful of mismatched machines, one cluster that keeps serving";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable"; # it must have the version of Go that go.mod names

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = make: builtins.listToAttrs (map (system: { name = system; value = make nixpkgs.legacyPackages.${system}; }) systems);
    in
    {
      packages = each (pkgs: rec {
        revolve = pkgs.callPackage ./packaging/nix/package.nix { };
        default = revolve;
      });
      nixosModules.default = import ./packaging/nix/module.nix;
    };
}
