# All daemons in one place, with what `serena-supervise up` and `mcp-sessiond serena` need besides: uv, and a Python that
# uv finds, since those that uv downloads do not run on NixOS.
{
  lib,
  symlinkJoin,
  makeWrapper,
  python3,
  uv,
  # The four packages.
  daemons,
}:
symlinkJoin {
  name = "serena-mcp-${(lib.head daemons).version}";
  paths = daemons;
  nativeBuildInputs = [ makeWrapper ];
  # The daemons find each other beside themselves or on PATH, and a package has but one: these are of one version. Of uv and
  # Python, what the user has comes first.
  postBuild = ''
    for program in serena-supervise mcp-sessiond; do
      wrapProgram "$out/bin/$program" \
        --prefix PATH : "$out/bin" \
        --suffix PATH : ${
          lib.makeBinPath [
            uv
            python3
          ]
        }
    done
  '';
  meta = {
    description = "mcp-sessiond, mcp-authd, serena-supervise and serena-snapshotd, with uv for Serena";
    license = with lib.licenses; [
      asl20
      mit
    ];
    mainProgram = "serena-supervise";
    platforms = lib.platforms.unix;
  };
}
