# What the module and the flake say, evaluated without nixpkgs: the few functions of its
# library that they use are written here, as small as they can be. nixpkgs itself, which
# judges types and merges modules, is not there without a network.
let
  lib = {
    mkOption = x: { option = true; } // x;
    mkEnableOption = what: lib.mkOption { type = "bool"; default = false; description = "Whether to enable ${what}."; };
    mkIf = condition: content: if condition then content else { };
    literalExpression = text: text;
    concatStringsSep = builtins.concatStringsSep;
    optionals = condition: list: if condition then list else [ ];
    cleanSource = path: path;
    licenses.asl20 = "Apache-2.0";
    platforms.linux = [ "x86_64-linux" "aarch64-linux" ];
    types = { package = "package"; path = "path"; str = "string"; bool = "boolean"; port = "port"; nullOr = of: "null or ${of}"; listOf = of: "list of ${of}"; };
  };
  callPackage = file: overrides:
    let f = import file; known = { inherit lib; buildGoModule = x: x // { outPath = "/nix/store/revolve"; }; installShellFiles = "installShellFiles"; };
    in f (builtins.intersectAttrs (builtins.functionArgs f) known // overrides);
  pkgs = { inherit callPackage; };
  flake = (import ../../flake.nix).outputs {
    self = { };
    nixpkgs.legacyPackages = { x86_64-linux = pkgs; aarch64-linux = pkgs; };
  };
  # The options' defaults, and what a person would say.
  defaults = builtins.mapAttrs (_: o: o.default or null) (module { services.revolve = { }; }).options.services.revolve;
  module = config: flake.nixosModules.default { inherit config lib pkgs; };
  package = flake.packages.x86_64-linux.default;
  person = defaults // { enable = true; configFile = "/etc/nixos/revolve.yaml"; };
in
{
  package = { inherit (package) pname subPackages vendorHash postInstall meta; };
  options = builtins.attrNames (module { services.revolve = { }; }).options.services.revolve;
  undocumented = builtins.filter (name: !((module { services.revolve = { }; }).options.services.revolve.${name} ? description))
    (builtins.attrNames (module { services.revolve = { }; }).options.services.revolve);
  off = (module { services.revolve = defaults; }).config;
  on = (module { services.revolve = person; }).config;
  named = (module { services.revolve = person // { node = "a"; port = 7400; openFirewall = false; extraOptions = [ "--debug" ]; }; }).config;
}
