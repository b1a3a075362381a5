# OCI images for `docker load` and `podman load`: `image`, all daemons with what Serena needs, and one of each daemon alone.
# Users, directories and ports are those of packaging/container.
{
  lib,
  dockerTools,
  runCommand,
  stdenv,
  bashInteractive,
  cacert,
  coreutils,
  findutils,
  git,
  gnugrep,
  gnused,
  nodejs,
  python3,
  uv,
  # By name.
  daemons,
  # All of them.
  serena-mcp,
}:
let
  user = "1000:1000";
  state = "/var/lib/serena";
  runtime = "/run/serena-mcp";
  project = "/workspace";
  settings = name: "/etc/serena-mcp/${name}.toml";

  # Whose the processes are, for programs that ask.
  people = runCommand "serena-mcp-people" { } ''
    mkdir -p "$out/etc"
    echo 'root:x:0:0::/root:/bin/sh' > "$out/etc/passwd"
    echo 'serena:x:1000:1000::${state}:/bin/sh' >> "$out/etc/passwd"
    printf 'root:x:0:\nserena:x:1000:\n' > "$out/etc/group"
    echo 'hosts: files dns' > "$out/etc/nsswitch.conf"
  '';

  image =
    {
      name,
      contents,
      entrypoint ? [ ],
      command,
      health,
      env ? [ ],
      port ? null,
    }:
    dockerTools.buildLayeredImage {
      inherit name;
      tag = (lib.head (lib.attrValues daemons)).version;
      contents = [
        cacert
        people
      ]
      ++ contents;
      fakeRootCommands = ''
        mkdir -m 1777 tmp
        mkdir -p .${state} .${runtime} .${project} .${dirOf (settings name)}
        chmod 0750 .${state} .${runtime}
        chown ${user} .${state} .${runtime} .${project}
      '';
      config = {
        Entrypoint = entrypoint;
        Cmd = command;
        User = user;
        WorkingDir = project;
        Env = [
          "HOME=${state}"
          "PATH=/bin"
          "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt"
          "XDG_RUNTIME_DIR=${runtime}"
        ]
        ++ env;
        Volumes.${state} = { };
        ExposedPorts = lib.optionalAttrs (port != null) { "${toString port}/tcp" = { }; };
        # Docker counts nanoseconds. A first start downloads Serena.
        Healthcheck = {
          Test = [ "CMD" ] ++ health;
          Interval = 10 * 1000000000;
          Timeout = 5 * 1000000000;
          StartPeriod = 300 * 1000000000;
        };
      };
    };

  alone =
    name:
    {
      command,
      port ? null,
    }:
    lib.nameValuePair "${name}-image" (image {
      inherit name port;
      contents = [ daemons.${name} ];
      entrypoint = [ "/bin/${name}" ];
      command =
        command
        ++ [
          "--config"
          (settings name)
        ];
      health = [
        "/bin/${name}"
        "status"
      ];
    });
in
{
  # Process 1 is serena-supervise, which reaps orphans and hands signals on. Name another daemon to run that instead.
  image = image {
    name = "serena-mcp";
    contents = [
      serena-mcp
      bashInteractive
      coreutils
      dockerTools.usrBinEnv
      findutils
      git
      gnugrep
      gnused
      nodejs
      python3
      uv
    ];
    command = [
      "serena-supervise"
      "up"
      "--project"
      project
      "--listen"
      "0.0.0.0:9121"
    ];
    health = [
      "/bin/mcp-sessiond"
      "status"
    ];
    env = [
      "SERENA_HOME=${state}/home"
      # What uv would download does not run here, and what it installs looks for the C++ library.
      "UV_PYTHON_DOWNLOADS=never"
      "LD_LIBRARY_PATH=${lib.makeLibraryPath [ stdenv.cc.cc ]}"
    ];
    port = 9121;
  };
}
// lib.mapAttrs' alone {
  mcp-authd = {
    command = [ "serve" ];
    port = 9120;
  };
  mcp-sessiond = {
    command = [ ];
    port = 9121;
  };
  serena-snapshotd.command = [ "run" ];
  serena-supervise.command = [ "run" ];
}
