# pkgs.formats.toml: the same values as the real one takes, written as TOML. Tables inside lists are written inline.
{ lib, writeText }:
let
  inherit (builtins) attrNames isAttrs isList match toJSON;
  key = k: if match "[A-Za-z0-9_-]+" k != null then k else toJSON k;
  inline =
    value:
    if value == null then
      throw "TOML has no null"
    else if isList value then
      "[${lib.concatMapStringsSep ", " inline value}]"
    else if isAttrs value && !(value ? outPath) then
      "{ ${lib.concatMapStringsSep ", " (k: "${key k} = ${inline value.${k}}") (attrNames value)} }"
    else
      # A string of JSON is one of TOML, and so are numbers and booleans.
      toJSON value;
  isTable = value: isAttrs value && !(value ? outPath);
  table =
    path: value:
    let
      names = attrNames value;
      here = lib.filter (k: !isTable value.${k}) names;
      below = lib.filter (k: isTable value.${k}) names;
    in
    lib.optionalString (path != [ ] && (here != [ ] || below == [ ])) "\n[${lib.concatMapStringsSep "." key path}]\n"
    + lib.concatMapStrings (k: "${key k} = ${inline value.${k}}\n") here
    + lib.concatMapStrings (k: table (path ++ [ k ]) value.${k}) below;
in
{
  type =
    with lib.types;
    let
      value = oneOf [
        bool
        int
        float
        str
        path
        (attrsOf value)
        (listOf value)
      ] // { description = "TOML value"; };
    in
    value;
  generate = name: value: writeText name (table [ ] value);
}
