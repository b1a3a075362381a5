# One daemon of this workspace: `pkgs.callPackage ./package.nix { name = "mcp-sessiond"; }`.
{
  lib,
  stdenv,
  rustPlatform,
  rustc,
  # The binary, which is also the crate and its directory below bins/.
  name,
}:
let
  runsHere = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  workspace = (lib.importTOML ./Cargo.toml).workspace.package;
  crate = (lib.importTOML (./bins + "/${name}/Cargo.toml")).package;
in
assert lib.assertMsg (lib.versionAtLeast rustc.version workspace.rust-version)
  "${name} needs rustc ${workspace.rust-version} or newer, and this nixpkgs has ${rustc.version}";
rustPlatform.buildRustPackage {
  pname = name;
  inherit (workspace) version;

  # What cargo reads of a workspace, so that a word in the documentation builds nothing anew.
  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./Cargo.lock
      ./Cargo.toml
      ./LICENSE
      ./LICENSE-APACHE
      ./LICENSE-MIT
      ./bins
      ./docs
      ./lib
      ./packaging/manual
      ./tests/bench
      ./tests/stories
      ./tests/support
    ];
  };
  cargoLock.lockFile = ./Cargo.lock;
  cargoBuildFlags = [
    "--package"
    name
  ];

  # The stories need real servers, and everything built twice; `tests/run` runs them on the same Cargo.lock.
  doCheck = false;

  # The program tells the words of its manual itself.
  postInstall = lib.optionalString runsHere ''
    bash packaging/manual "$out/bin/${name}" "$out/share"
  ''
  + ''
    install -Dm644 -t "$out/share/licenses/${name}" LICENSE LICENSE-APACHE LICENSE-MIT
    install -Dm644 -t "$out/share/doc/${name}" "docs/${name}.toml"
  '';

  doInstallCheck = runsHere;
  installCheckPhase = ''
    runHook preInstallCheck
    test "$("$out/bin/${name}" --version)" = "${name} ${workspace.version}"
    runHook postInstallCheck
  '';

  meta = {
    inherit (crate) description;
    license = with lib.licenses; [
      asl20
      mit
    ];
    mainProgram = name;
    platforms = lib.platforms.unix;
  };
}
