# services.serena-snapshotd: snapshots of homes, each by a unit of its own, under a user that no server runs as: the keys
# of the store are out of reach of Serena's tools.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.serena-snapshotd;
  inherit (lib) mkOption types;
  hardening = import ../hardening.nix;
  secrets = import ../secrets.nix { inherit lib; };
  toml = import ../settings.nix { inherit lib pkgs; };

  home =
    { name, ... }:
    {
      options = {
        home = mkOption {
          type = types.str;
          example = "/var/lib/serena/alice/home";
          description = "The home that is kept safe. Its directory must exist, the home itself need not.";
        };

        partition = mkOption {
          type = types.str;
          default = name;
          description = "The name of this home in the store; no two homes may have one name.";
        };

        store = mkOption {
          type = types.str;
          default = "file:///var/lib/serena-snapshotd/${name}/store";
          example = "s3://serena-state/homes";
          description = "Where snapshots are kept: `s3://bucket/prefix` or `file:///dir`.";
        };

        interval = mkOption {
          type = types.str;
          default = "3m";
          description = "Time from the end of a snapshot to the next, or `off`: then only when asked, and at the stop.";
        };

        accessKeyIdFile = mkOption {
          type = types.nullOr types.path;
          default = null;
          example = "/run/keys/s3-id";
          description = "File with the id of the bucket's key. Read by root, given to this unit alone, never in the Nix store.";
        };

        secretAccessKeyFile = mkOption {
          type = types.nullOr types.path;
          default = null;
          example = "/run/keys/s3-secret";
          description = "File with the bucket's secret key; never in the Nix store.";
        };

        credentials = mkOption {
          type = types.attrsOf types.path;
          default = { };
          example = {
            age = "/run/keys/serena-age";
          };
          description = "More files with secrets that `settings` name, by names of yours: `/run/credentials/serena-snapshotd-${name}.service/NAME`.";
        };

        settings = mkOption {
          inherit (toml) type;
          default = { };
          example = {
            keep.daily = 14;
            s3.endpoint = "https://s3.example.org";
          };
          description = "All other settings, see docs/serena-snapshotd.toml; they win over the options above. Checked at build time.";
        };
      };
    };

  # What it takes to read and write somebody else's files, and to give them back.
  capabilities = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER";

  service =
    name: one:
    let
      settings = lib.recursiveUpdate {
        inherit (one)
          home
          interval
          partition
          store
          ;
        state_dir = "/var/lib/serena-snapshotd/${name}";
      } one.settings;
      isLocal = lib.hasPrefix "file:" settings.store && !(settings ? observe);
      place = lib.optional (lib.hasPrefix "file:" settings.store) (lib.removePrefix "file://" settings.store);
      outside = lib.filter (path: !(lib.hasPrefix "/var/lib/serena-snapshotd/${name}/" path)) place;
      roots = lib.mapAttrsToList (_: root: root.path) (settings.root or { });
    in
    {
      description = "Snapshots of the home of ${name}";
      wantedBy = [ "multi-user.target" ];
      wants = lib.optional (!isLocal) "network-online.target";
      after = [ "network.target" ] ++ lib.optional (!isLocal) "network-online.target";
      # An empty home is restored before anybody starts on it; at a stop the last snapshot is of a home at rest.
      before = [ "serena-supervise-${name}.service" ];
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig =
        hardening.daemon
        // (if isLocal then hardening.sockets else hardening.network)
        // hardening.restart
        // {
          Type = "notify";
          ExecStart = "${lib.getExe cfg.package} run --config ${
            toml.file {
              name = "serena-snapshotd-${name}";
              inherit (cfg) package;
              inherit settings;
            }
          }";
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
          User = "serena-snapshotd";
          AmbientCapabilities = capabilities;
          CapabilityBoundingSet = capabilities;
          # Capabilities over files of others end where users are mapped.
          PrivateUsers = false;
          # The system call filter calls chown privileged.
          SystemCallFilter = [
            "@system-service"
            "~@privileged @resources"
            "@chown"
          ];
          ProtectHome = !(lib.any (lib.hasPrefix "/home") ([ settings.home ] ++ roots));
          # Locks and what is restored stand beside the home.
          ReadWritePaths = [ (dirOf settings.home) ] ++ map dirOf roots ++ map (path: "-${path}") outside;
          LoadCredential = secrets.load (
            one.credentials
            // {
              aws_access_key_id = one.accessKeyIdFile;
              aws_secret_access_key = one.secretAccessKeyFile;
            }
          );
          # A store that is away is not asked every second.
          RestartSec = 5;
          RuntimeDirectory = "serena-snapshotd/${name}";
          StateDirectory = "serena-snapshotd/${name}";
          StateDirectoryMode = "0700";
          # The first restore may be large; it says itself that it goes on.
          TimeoutStartSec = 600;
          # More than `shutdown_deadline`, 25 s.
          TimeoutStopSec = 40;
        };
    };
in
{
  options.services.serena-snapshotd = {
    enable = lib.mkEnableOption "serena-snapshotd, snapshots of SERENA_HOME";

    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.serena-snapshotd;
      defaultText = lib.literalExpression "self.packages.\${system}.serena-snapshotd";
      description = "Package to run.";
    };

    homes = mkOption {
      type = types.attrsOf (types.submodule home);
      default = { };
      description = "The homes that are kept safe, by name: that of the instance of serena-supervise whose home it is.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions =
      lib.mapAttrsToList (name: one: {
        assertion = (one.accessKeyIdFile == null) == (one.secretAccessKeyFile == null);
        message = "services.serena-snapshotd.homes.${name}: accessKeyIdFile and secretAccessKeyFile go together.";
      }) cfg.homes
      ++ secrets.assertions (
        lib.foldl' (all: more: all // more) { } (
          lib.mapAttrsToList (
            name: one:
            let
              at = "services.serena-snapshotd.homes.${name}";
            in
            {
              "${at}.accessKeyIdFile" = one.accessKeyIdFile;
              "${at}.secretAccessKeyFile" = one.secretAccessKeyFile;
            }
            // lib.mapAttrs' (credential: lib.nameValuePair "${at}.credentials.${credential}") one.credentials
          ) cfg.homes
        )
      );

    users.groups.serena-snapshotd = { };
    users.users.serena-snapshotd = {
      isSystemUser = true;
      group = "serena-snapshotd";
      description = "Snapshots of SERENA_HOME";
    };
    environment.systemPackages = [ cfg.package ];
    systemd.services = lib.mapAttrs' (
      name: one: lib.nameValuePair "serena-snapshotd-${name}" (service name one)
    ) cfg.homes;
  };
}
