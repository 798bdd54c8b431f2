# A NixOS machine as a node of a cluster. The unit is the one of examples/systemd, word for
# word, with this machine's paths; a node of NixOS takes its configuration from its own file
# only, so say `source: file` for it in the configuration (docs/configuration.md).
#
#   imports = [ revolve.nixosModules.default ];
#   services.revolve = { enable = true; configFile = ./revolve.yaml; node = "a"; };
{ config, lib, pkgs, ... }:
let
  cfg = config.services.revolve;
in
{
  options.services.revolve = {
    enable = lib.mkEnableOption "a node of a Revolve cluster";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that is run.";
    };
    configFile = lib.mkOption {
      type = lib.types.path;
      description = "The cluster's configuration, the same file on all nodes. It holds no secrets: it gets into the store.";
    };
    node = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = "Which node this machine is; null: the one whose identity is in /var/lib/revolve.";
    };
    extraOptions = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "--debug" ];
      description = "More options of revolve agent.";
    };
    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Let the other nodes in.";
    };
    port = lib.mkOption {
      type = lib.types.port;
      default = 7373;
      description = "The configuration's port, for the firewall.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."revolve/revolve.yaml".source = cfg.configFile;
    networking.firewall = lib.mkIf cfg.openFirewall {
      allowedTCPPorts = [ cfg.port ];
      allowedUDPPorts = [ cfg.port ];
    };
    systemd.packages = [ cfg.package ];
    systemd.services.revolve = {
      wantedBy = [ "multi-user.target" ];
      # Hooks and checks of the configuration find what every machine has.
      path = [ "/run/current-system/sw" ];
      serviceConfig.ExecStart = [
        ""
        (lib.concatStringsSep " " ([ "${cfg.package}/bin/revolve" "agent" "--config" "/etc/revolve/revolve.yaml" ]
          ++ lib.optionals (cfg.node != null) [ "--node" cfg.node ]
          ++ cfg.extraOptions))
      ];
    };
  };
}
