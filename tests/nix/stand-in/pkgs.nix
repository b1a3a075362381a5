# The packages and builders that this flake takes from nixpkgs, made of the programs of this machine. No sandbox, no
# toolchain of its own: what it shows is that our expressions evaluate, build and run, not that nixpkgs takes them.
{
  lib,
  system,
  # What `make` found here.
  host,
  overlays ? [ ],
}:
let
  inherit (builtins) elemAt match;
  parts = match "([^-]*)-(.*)" system;
  platform = rec {
    inherit system;
    isLinux = elemAt parts 1 == "linux";
    isDarwin = elemAt parts 1 == "darwin";
    isx86_64 = elemAt parts 0 == "x86_64";
    isAarch64 = elemAt parts 0 == "aarch64";
  };

  # A derivation in nixpkgs' manner: `nativeBuildInputs` on PATH and their hooks sourced, `passthru` and `meta` beside it.
  drv =
    name: env: script:
    let
      inputs = env.nativeBuildInputs or [ ] ++ env.buildInputs or [ ];
      built = derivation (
        {
          inherit name system;
          builder = host.bash;
          args = [
            "-euo"
            "pipefail"
            "-c"
            ''. "$buildCommandPath"''
          ];
          buildCommand = ''
            for input in ''${nativeBuildInputs-}; do
              ! [ -e "$input/nix-support/setup-hook" ] || . "$input/nix-support/setup-hook"
            done
            ${script}
          '';
          outputs = [ "out" ]; # `nix develop` reads it
          PATH = lib.concatStringsSep ":" (map (input: "${input}/bin") inputs ++ [ host.path ]);
        }
        // removeAttrs env [
          "meta"
          "passthru"
        ]
        // {
          passAsFile = [ "buildCommand" ] ++ env.passAsFile or [ ];
        }
      );
    in
    built // (env.passthru or { }) // { meta = env.meta or { }; };

  # A program of this machine. Where it has none, an empty package, which the build's log tells.
  hostTool = hostTools [ ];
  hostTools =
    more: name:
    drv name
      {
        passthru = {
          pname = name;
          version = host.versions.${name} or "0";
        };
        meta.mainProgram = name;
      }
      ''
        mkdir -p "$out/bin"
        for program in ${toString ([ name ] ++ more)}; do
          if found=$(type -P "$program"); then
            ln -s "$found" "$out/bin/"
          else
            echo "stand-in: this machine has no $program" >&2
          fi
        done
      '';

  base = rec {
    inherit lib system;
    stdenv = {
      inherit system;
      hostPlatform = platform;
      # What is here can run what it builds, as in a native nixpkgs.
      buildPlatform = platform // { canExecute = other: other.system == system; };
      # For its libraries alone.
      cc.cc = drv "cc-libraries" { } ''
        mkdir -p "$out/lib"
        ln -s "$(cc -print-file-name=libstdc++.so.6)" "$(cc -print-file-name=libgcc_s.so.1)" "$out/lib/"
      '';
      mkDerivation = args: drv args.name (removeAttrs args [ "name" ]) (args.buildCommand or "mkdir $out");
    };

    writeText = name: text: drv name { inherit text; passAsFile = [ "text" ]; } ''cp "$textPath" "$out"'';
    writeShellScript =
      name: text:
      drv name {
        text = "#!${host.bash}\n" + text;
        passAsFile = [ "text" ];
      } ''install -m755 "$textPath" "$out"'';
    writeTextFile =
      {
        name,
        text,
        destination ? "",
        executable ? false,
        ...
      }:
      drv name
        {
          inherit text destination;
          passAsFile = [ "text" ];
        }
        ''
          mkdir -p "$(dirname "$out$destination")"
          install -m ${if executable then "755" else "644"} "$textPath" "$out$destination"
        '';
    writeScriptBin =
      name: text:
      writeTextFile {
        inherit name text;
        destination = "/bin/${name}";
        executable = true;
      };
    writeShellScriptBin = name: text: writeScriptBin name "#!${host.bash}\n${text}";
    runCommand = drv;
    emptyDirectory = drv "empty-directory" { } "mkdir $out";
    symlinkJoin =
      {
        name,
        paths,
        postBuild ? "",
        ...
      }@args:
      drv name (removeAttrs args [ "name" "postBuild" ]) ''
        mkdir -p "$out"
        for path in $paths; do
          cp -rs --no-preserve=mode "$path/." "$out/"
        done
        ${postBuild}
      '';
    makeWrapper = drv "make-wrapper" { } ''
      mkdir -p "$out/nix-support"
      cp ${./wrap-program} "$out/nix-support/setup-hook"
    '';

    formats = {
      json = _: {
        type =
          with lib.types;
          let
            value =
              nullOr (oneOf [
                bool
                int
                float
                str
                path
                (attrsOf value)
                (listOf value)
              ])
              // {
                description = "JSON value";
              };
          in
          value;
        generate = name: value: writeText name (builtins.toJSON value);
      };
      toml = _: import ./toml.nix { inherit lib writeText; };
    };
    rustPlatform.buildRustPackage = import ./rust.nix { inherit drv host lib; };
    dockerTools = import ./docker.nix { inherit drv lib; };

    cargo = hostTool "cargo";
    rustc = hostTool "rustc";
    clippy = hostTool "cargo-clippy";
    rustfmt = hostTool "rustfmt";
    rust-analyzer = hostTool "rust-analyzer";
    cargo-deny = hostTool "cargo-deny";
    cargo-nextest = hostTool "cargo-nextest";
    nixfmt-tree = hostTool "nixfmt";
    python3 = hostTool "python3";
    nodejs = hostTools [ "npm" "npx" ] "node";
    uv = hostTools [ "uvx" ] "uv";
    git = hostTool "git";
    bash = hostTools [ "sh" ] "bash";
    bashInteractive = bash;
    coreutils = hostTools [ "ls" "cat" "cp" "mv" "mkdir" "rm" "id" "sleep" "touch" "env" "kill" "od" "tr" ] "stat";
    findutils = hostTools [ "xargs" ] "find";
    gnugrep = hostTool "grep";
    gnused = hostTool "sed";
    cacert = drv "cacert" { } ''
      mkdir -p "$out/etc/ssl/certs"
      cp -L /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/ca-bundle.crt"
    '';
    mkShell =
      {
        packages ? [ ],
        nativeBuildInputs ? [ ],
        inputsFrom ? [ ],
        shellHook ? "",
        ...
      }:
      drv "shell" {
        inherit shellHook;
        nativeBuildInputs = packages ++ nativeBuildInputs;
      } "env > $out";

    callPackage =
      f: extra:
      let
        function = if builtins.isFunction f then f else import f;
      in
      function (builtins.intersectAttrs (builtins.functionArgs function) pkgs // extra);
  };
  pkgs = builtins.foldl' (all: overlay: all // overlay pkgs all) (base // { inherit pkgs; }) overlays;
in
pkgs
