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

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
  ''
  + ''
    install -Dm644 -t "$out/share/licenses/${name}" LICENSE LICENSE-APACHE LICENSE-MIT
    install -Dm644 -t "$out/share/doc/${name}" "docs/${name}.toml"
  '';

  doInstallCheck = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  installCheckPhase = ''
    runHook preInstallCheck
    "$out/bin/${name}" --version | grep -F "${name} ${workspace.version}"
    test -s "$out/share/man/man1/${name}.1" || test -s "$out/share/man/man1/${name}.1.gz"
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
