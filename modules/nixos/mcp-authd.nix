# services.mcp-authd: tokens, JWT and TLS; who is this, and where may they go.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-authd;
  inherit (lib) mkOption types;
  addresses = import ../addresses.nix { inherit lib; };
  hardening = import ../hardening.nix;
  secrets = import ../secrets.nix { inherit lib; };
  toml = import ../settings.nix { inherit lib pkgs; };

  given = "/run/credentials/mcp-authd.service";
  # Credentials are one flat directory. Its visible files are the tokens, one a subject, so everything else is hidden.
  hidden = lib.mapAttrs' (name: lib.nameValuePair ".${name}") (
    cfg.credentials
    // {
      tokens = cfg.tokensFile;
      certificate = cfg.certificate;
      certificate-key = cfg.certificateKey;
    }
  );
  settings = lib.recursiveUpdate (
    {
      inherit (cfg) upstream;
      environment_tokens = false;
      listen = [ "fd:mcp" ];
      state_dir = "/var/lib/mcp-authd";
    }
    // lib.optionalAttrs (cfg.tokens != { }) { tokens = given; }
    // lib.optionalAttrs (cfg.tokensFile != null) { tokens = "${given}/.tokens"; }
    // lib.optionalAttrs (cfg.certificate != null) {
      tls = {
        certificate = "${given}/.certificate";
        key = "${given}/.certificate-key";
      };
    }
  ) cfg.settings;
  # A URL may be somebody to ask: a server, a key set.
  isLocal = !(settings ? observe) && !(lib.hasInfix "://" (builtins.toJSON settings));
  isRoute = name: builtins.match "[a-z0-9][a-z0-9._-]{0,62}" name != null && !(lib.hasInfix ".." name);
in
{
  options.services.mcp-authd = {
    enable = lib.mkEnableOption "mcp-authd, tokens and TLS in front of MCP servers";

    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.mcp-authd;
      defaultText = lib.literalExpression "self.packages.\${system}.mcp-authd";
      description = "Package to run.";
    };

    listen = mkOption {
      type = types.listOf types.str;
      default = [ "127.0.0.1:9120" ];
      example = [ "0.0.0.0:443" ];
      description = ''
        Where clients connect. systemd owns these sockets, so no privilege is needed for low ports. What is not loopback
        needs a certificate, or `settings.allow_plaintext` behind something that speaks TLS.
      '';
    };

    upstream = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "unix:/run/serena/{route}/mcp.sock";
      description = "Where routes lead that have no upstream of their own in `settings.route`.";
    };

    tokens = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = {
        alice = "/run/keys/alice";
      };
      description = ''
        Files with one token each, or `sha256:` and its hash, by the name of its subject, which is the route too. Read by
        root, given to this unit alone, never in the Nix store. A change needs a restart of the unit, which sessions survive.
      '';
    };

    tokensFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/keys/tokens.toml";
      description = "Instead of `tokens`: one file as `mcp-authd token new` writes it, with routes, scopes and expiry.";
    };

    certificate = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/var/lib/acme/mcp.example.org/fullchain.pem";
      description = "Certificates, PEM: TLS is spoken on all TCP addresses.";
    };

    certificateKey = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/var/lib/acme/mcp.example.org/key.pem";
      description = "The key of `certificate`; never in the Nix store.";
    };

    credentials = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = {
        jwt-secret = "/run/keys/jwt-secret";
      };
      description = ''
        More files with secrets that `settings` name, by names of yours: `${given}/.NAME`.
      '';
    };

    group = mkOption {
      type = types.str;
      default = "serena-mcp";
      description = "The group that may open the upstream's socket, and that of Unix sockets in `listen`.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Let others reach the TCP addresses in `listen` that are not loopback.";
    };

    settings = mkOption {
      inherit (toml) type;
      default = { };
      example = {
        rate.subject_per_second = 50;
      };
      description = "All other settings, see docs/mcp-authd.toml; they win over the options above. Checked at build time.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.tokens == { } || cfg.tokensFile == null;
        message = "services.mcp-authd: tokens and tokensFile are two ways to say one thing; use one of them.";
      }
      {
        assertion = (cfg.certificate == null) == (cfg.certificateKey == null);
        message = "services.mcp-authd: certificate and certificateKey go together.";
      }
      {
        assertion = cfg.tokens != { } || cfg.tokensFile != null || settings ? tokens || settings ? jwt || settings ? tls;
        message = "services.mcp-authd: nobody could be let in; set tokens, tokensFile or settings.jwt.";
      }
      {
        assertion = !(lib.any (lib.hasPrefix "unix:/run/mcp-authd/") cfg.listen);
        message = "services.mcp-authd.listen: /run/mcp-authd is the daemon's own and closed to others; use another directory.";
      }
    ]
    ++ lib.mapAttrsToList (name: _: {
      assertion = isRoute name && !(lib.hasSuffix ".toml" name);
      message = "services.mcp-authd.tokens: `${name}` cannot be a subject; use 1-63 of a-z 0-9 . _ - that begin with a letter or digit.";
    }) cfg.tokens
    ++ secrets.assertions (
      {
        "services.mcp-authd.tokensFile" = cfg.tokensFile;
        "services.mcp-authd.certificateKey" = cfg.certificateKey;
      }
      // lib.mapAttrs' (name: lib.nameValuePair "services.mcp-authd.tokens.${name}") cfg.tokens
      // lib.mapAttrs' (name: lib.nameValuePair "services.mcp-authd.credentials.${name}") cfg.credentials
    );

    users.groups.${cfg.group} = { };
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (addresses.openPorts cfg.listen);
    environment.systemPackages = [ cfg.package ];

    systemd.sockets.mcp-authd = {
      description = "Tokens and TLS in front of MCP servers, sockets";
      wantedBy = [ "sockets.target" ];
      listenStreams = map addresses.stream cfg.listen;
      socketConfig = {
        Backlog = 4096;
        FileDescriptorName = "mcp";
        SocketGroup = cfg.group;
        SocketMode = "0660";
      };
    };

    systemd.services.mcp-authd = {
      description = "Tokens and TLS in front of MCP servers";
      wants = [ "mcp-authd.socket" ];
      after = [
        "mcp-authd.socket"
        "mcp-sessiond.socket"
        "network.target"
      ];
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig =
        hardening.daemon
        // (if isLocal then hardening.sockets else hardening.network)
        // hardening.restart
        // {
          Type = "notify";
          ExecStart = "${lib.getExe cfg.package} serve --config ${
            toml.file {
              name = "mcp-authd";
              inherit (cfg) package;
              inherit settings;
              # The real addresses: those that are handed over show only at the start whether others can reach them.
              flags = [ "--without-files" ] ++ lib.concatMap (one: [ "--listen" one ]) cfg.listen;
            }
          }";
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
          DynamicUser = true;
          # Two for each connection.
          LimitNOFILE = 65536;
          LoadCredential = secrets.load (cfg.tokens // hidden);
          RuntimeDirectory = "mcp-authd";
          StateDirectory = "mcp-authd";
          StateDirectoryMode = "0700";
          SupplementaryGroups = cfg.group;
          # More than `grace`, 10 s.
          TimeoutStopSec = 20;
        };
    };
  };
}
