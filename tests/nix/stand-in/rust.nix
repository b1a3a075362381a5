# rustPlatform.buildRustPackage with this machine's cargo, offline, in a target directory that all builds share: what
# `cargo build` has compiled there already is not compiled again.
{
  drv,
  host,
  lib,
}:
{
  pname,
  version,
  src,
  cargoLock,
  cargoBuildFlags ? [ ],
  cargoTestFlags ? [ ],
  doCheck ? true,
  postInstall ? "",
  doInstallCheck ? false,
  installCheckPhase ? "",
  nativeBuildInputs ? [ ],
  meta ? { },
  # `cargoLock` and whatever else nixpkgs' takes changes nothing here.
  ...
}:
drv "${pname}-${version}"
  {
    inherit
      src
      pname
      version
      meta
      nativeBuildInputs
      ;
    CARGO_HOME = host.cargoHome;
    RUSTUP_HOME = host.rustupHome;
    CARGO_TARGET_DIR = host.targetDir;
    CARGO_INCREMENTAL = "0";
    CARGO_TERM_COLOR = "never";
    buildFlags = cargoBuildFlags;
    testFlags = cargoTestFlags;
    # nixpkgs builds `release`; the profile of a stand-in is its maker's choice.
    inherit (host) profile;
    passthru = { inherit pname version; };
  }
  ''
    export HOME=$NIX_BUILD_TOP
    runHook() { :; }
    jobs=''${NIX_BUILD_CORES:-1}
    [ "$jobs" != 0 ] || jobs=$(nproc)

    # Always the same place, because cargo knows a package by its path; and only what differs is copied there, because
    # all files of a store have the same time and cargo goes by times.
    source=$CARGO_TARGET_DIR/stand-in/source
    mkdir -p "$source"
    exec 9>"$CARGO_TARGET_DIR/stand-in/lock"
    flock 9
    (cd "$src" && find . -type f) | while read -r file; do
      cmp -s "$src/$file" "$source/$file" || install -D "$src/$file" "$source/$file"
    done
    (cd "$source" && find . -type f) | while read -r file; do
      [ -e "$src/$file" ] || rm "$source/$file"
    done
    cd "$source"

    cargo build --offline --locked --jobs "$jobs" --profile "$profile" $buildFlags \
      --message-format=json-render-diagnostics > "$NIX_BUILD_TOP/messages"
    ${lib.optionalString doCheck ''
      cargo test --offline --locked --jobs "$jobs" --profile "$profile" $testFlags
    ''}
    mkdir -p "$out/bin"
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$NIX_BUILD_TOP/messages" | while read -r program; do
      install -m755 "$program" "$out/bin/"
    done
    ${postInstall}
    ${lib.optionalString doInstallCheck installCheckPhase}
  ''
