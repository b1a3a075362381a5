# The part of nixpkgs' `lib` that this flake uses, written anew: functions, options, types, modules.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    functionArgs
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    match
    replaceStrings
    sort
    stringLength
    substring
    tail
    toJSON
    ;

  # ---- plain helpers -------------------------------------------------------------------------
  genAttrs = names: f: listToAttrs (map (n: nameValuePair n (f n)) names);
  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = c: a: if c then a else { };
  optional = c: x: if c then [ x ] else [ ];
  optionals = c: x: if c then x else [ ];
  optionalString = c: s: if c then s else "";
  mapAttrs' = f: a: listToAttrs (map (n: f n a.${n}) (attrNames a));
  mapAttrsToList = f: a: map (n: f n a.${n}) (attrNames a);
  filterAttrs = p: a: removeAttrs a (filter (n: !p n a.${n}) (attrNames a));
  hasPrefix = p: s: substring 0 (stringLength p) s == p;
  hasSuffix =
    p: s:
    let
      d = stringLength s - stringLength p;
    in
    d >= 0 && substring d (stringLength p) s == p;
  removePrefix = p: s: if hasPrefix p s then substring (stringLength p) (stringLength s) s else s;
  concatStrings = concatStringsSep "";
  hasInfix = infix: s: length (builtins.split (builtins.replaceStrings [ "." "+" "*" "?" "[" "{" "(" "|" "^" "$" "\\" ] [ "\\." "\\+" "\\*" "\\?" "\\[" "\\{" "\\(" "\\|" "\\^" "\\$" "\\\\" ] infix) s) > 1;
  splitString = sep: s: filter isString (builtins.split (builtins.replaceStrings [ "." ] [ "\\." ] sep) s);
  toInt = s: builtins.fromJSON s;
  concatMapStrings = f: l: concatStringsSep "" (map f l);
  concatMapStringsSep = s: f: l: concatStringsSep s (map f l);
  last = l: builtins.elemAt l (length l - 1);
  unique = foldl' (acc: x: if elem x acc then acc else acc ++ [ x ]) [ ];
  toList = x: if isList x then x else [ x ];
  escapeShellArg =
    a:
    let
      s = toString a;
    in
    if match "[[:alnum:],._+:@%/-]+" s != null then s else "'${replaceStrings [ "'" ] [ "'\\''" ] s}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  importTOML = p: builtins.fromTOML (builtins.readFile p);
  getExe' = p: n: "${p}/bin/${n}";
  getExe = p: getExe' p (p.meta.mainProgram or p.pname or p.name);
  makeBinPath = concatMapStringsSep ":" (p: "${p}/bin");
  makeLibraryPath = concatMapStringsSep ":" (p: "${p}/lib");
  imap1 = f: l: builtins.genList (i: f (i + 1) (builtins.elemAt l i)) (length l);
  assertMsg = ok: message: if ok then true else throw message;
  # Files and directories alone; the real one takes differences and intersections too.
  fileset = {
    unions = paths: paths;
    toSource =
      { root, fileset }:
      let
        wanted = map toString fileset;
        missing = filter (p: !builtins.pathExists p) fileset;
        within = p: w: p == w || hasPrefix "${w}/" p || hasPrefix "${p}/" w;
      in
      if missing != [ ] then
        throw "lib.fileset.unions: ${toString (head missing)} does not exist"
      else
        builtins.path {
          path = root;
          name = "source";
          filter = path: _: builtins.any (within path) wanted;
        };
  };
  recursiveUpdate =
    a: b:
    a // mapAttrs (n: v: if isAttrs v && isAttrs (a.${n} or null) then recursiveUpdate a.${n} v else v) b;
  isDerivation = x: isAttrs x && x.type or null == "derivation";
  showPath = concatStringsSep ".";

  # ---- properties ----------------------------------------------------------------------------
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkOptionDefault = mkOverride 1500;
  ofType = t: x: isAttrs x && x._type or null == t;

  pushDown =
    v:
    if ofType "merge" v then
      concatMap pushDown v.contents
    else if ofType "if" v then
      map (mapAttrs (_: mkIf v.condition)) (pushDown v.content)
    else if ofType "override" v then
      map (mapAttrs (_: mkOverride v.priority)) (pushDown v.content)
    else
      [ v ];

  # one definition -> list of { file, value, prio, order }
  discharge =
    d:
    let
      v = d.value;
    in
    if ofType "merge" v then
      concatMap (x: discharge (d // { value = x; })) v.contents
    else if ofType "if" v then
      if v.condition then discharge (d // { value = v.content; }) else [ ]
    else if ofType "override" v then
      discharge (
        d
        // {
          prio = v.priority;
          value = v.content;
        }
      )
    else if ofType "order" v then
      discharge (
        d
        // {
          order = v.priority;
          value = v.content;
        }
      )
    else
      [ d ];

  # ---- options -------------------------------------------------------------------------------
  mkOption = a: a // { _type = "option"; };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    pkgs: name: extra:
    mkOption (
      {
        type = types.package;
        description = "The ${name} package to use.";
      }
      // (
        let
          d = extra.default or name;
        in
        if d == null then { } else { default = pkgs.${d}; }
      )
    );
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  isOption = ofType "option";

  # ---- types ---------------------------------------------------------------------------------
  mkOptionType = t: { _type = "option-type"; merge = mergeOne; } // t;
  show = v: if isFunction v then "<function>" else if isDerivation v then "<derivation>" else toJSON v;
  mergeOne =
    loc: defs:
    if length defs == 1 then
      (head defs).value
    else if all (d: d.value == (head defs).value) defs then
      (head defs).value
    else
      throw "The option `${showPath loc}' has conflicting definition values: ${
        concatMapStringsSep ", " (d: d.file) defs
      }";
  simple = name: check: mkOptionType { inherit name check; description = name; };
  concatStrType =
    sep: name:
    mkOptionType {
      inherit name;
      description = name;
      check = isString;
      merge = _: defs: concatStringsSep sep (map (d: d.value) defs);
    };
  between = lo: hi: simple "integer between ${toString lo} and ${toString hi}" (x: isInt x && x >= lo && x <= hi);
  isPathLike = x: isPath x || (isString x || isDerivation x || (isAttrs x && x ? outPath)) && substring 0 1 (toString x) == "/";
  checkDefs =
    type: loc: defs:
    map (
      d:
      if type.check d.value then
        d
      else
        throw "A definition for option `${showPath loc}' is not of type `${type.description}'. Definition in ${d.file}: ${show d.value}"
    ) defs;
  mergeType = type: loc: defs: type.merge loc (checkDefs type loc defs);
  sub = d: value: { inherit (d) file; inherit value; prio = 100; order = 1000; };
  resolve =
    defs:
    let
      ds = concatMap discharge defs;
      best = foldl' (m: d: if d.prio < m then d.prio else m) 99999 ds;
    in
    sort (a: b: a.order < b.order) (filter (d: d.prio == best) ds);

  types = rec {
    bool = simple "boolean" isBool;
    int = simple "signed integer" isInt;
    float = simple "floating point number" isFloat;
    number = simple "number" (x: isInt x || isFloat x);
    str = simple "string" isString;
    nonEmptyStr = simple "non-empty string" (x: isString x && x != "");
    singleLineStr = simple "single-line string" (x: isString x && match "[^\n]*" x != null);
    lines = concatStrType "\n" "strings concatenated with \"\\n\"";
    port = between 0 65535 // { description = "16 bit unsigned integer; between 0 and 65535"; };
    ints = {
      inherit between;
      positive = simple "positive integer" (x: isInt x && x > 0);
      unsigned = simple "unsigned integer" (x: isInt x && x >= 0);
      u16 = port;
    };
    path = simple "absolute path" isPathLike;
    package = simple "package" (x: isDerivation x || isPathLike x);
    raw = simple "raw value" (_: true);
    unspecified = raw;
    anything = mkOptionType {
      name = "anything";
      description = "anything";
      check = _: true;
      merge =
        loc: defs:
        if all (d: isAttrs d.value && !isDerivation d.value) defs then
          (attrsOf anything).merge loc defs
        else
          mergeOne loc defs;
    };
    attrs = mkOptionType {
      name = "attrs";
      description = "attribute set";
      check = isAttrs;
      merge = _: defs: foldl' (a: d: a // d.value) { } defs;
    };
    strMatching = re: simple "string matching the pattern ${re}" (x: isString x && match re x != null);
    enum = vs: simple "one of ${toJSON vs}" (x: elem x vs);
    nullOr =
      t:
      mkOptionType {
        name = "nullOr";
        description = "null or ${t.description}";
        check = x: x == null || t.check x;
        merge = loc: defs: if all (d: d.value == null) defs then null else t.merge loc defs;
      };
    listOf =
      t:
      mkOptionType {
        name = "listOf";
        description = "list of ${t.description}";
        check = isList;
        merge =
          loc: defs:
          concatMap (
            d: map (v: mergeType t (loc ++ [ "*" ]) [ (sub d v) ]) (concatMap (v: map (x: x.value) (resolve [ (sub d v) ])) d.value)
          ) defs;
      };
    attrsOf =
      t:
      mkOptionType {
        name = "attrsOf";
        description = "attribute set of ${t.description}";
        check = isAttrs;
        merge =
          loc: defs:
          let
            pushed = concatMap (d: map (value: d // { inherit value; }) (pushDown d.value)) defs;
            names = unique (concatMap (d: attrNames d.value) pushed);
            per = n: resolve (concatMap (d: optional (d.value ? ${n}) (sub d d.value.${n})) pushed);
          in
          listToAttrs (
            concatMap (
              n:
              let
                ds = per n;
              in
              optional (ds != [ ]) (nameValuePair n (mergeType t (loc ++ [ n ]) ds))
            ) names
          );
      };
    lazyAttrsOf = attrsOf;
    either =
      a: b:
      mkOptionType {
        name = "either";
        description = "${a.description} or ${b.description}";
        check = x: a.check x || b.check x;
        merge = loc: defs: if all (d: a.check d.value) defs then a.merge loc defs else b.merge loc defs;
      };
    oneOf = ts: foldl' either (head ts) (tail ts);
    coercedTo =
      from: f: to:
      mkOptionType {
        name = "coercedTo";
        description = to.description;
        check = x: from.check x || to.check x;
        merge = loc: defs: to.merge loc (map (d: if from.check d.value then d // { value = f d.value; } else d) defs);
      };
    submodule = m: submoduleWith { modules = toList m; };
    submoduleWith =
      {
        modules,
        specialArgs ? { },
        ...
      }:
      mkOptionType {
        name = "submodule";
        description = "submodule";
        check = x: isAttrs x || isFunction x || isPath x;
        merge =
          loc: defs:
          (evalModules {
            prefix = loc;
            inherit specialArgs;
            modules =
              modules
              ++ [ { _module.args.name = last loc; } ]
              ++ map (
                d:
                if isFunction d.value || isPath d.value then
                  d.value
                else
                  {
                    _file = d.file;
                    config = d.value;
                  }
              ) defs;
          }).config;
      };
  };

  # ---- modules -------------------------------------------------------------------------------
  moduleKeys = [
    "_file"
    "key"
    "imports"
    "disabledModules"
    "freeformType"
    "options"
    "config"
    "meta"
    "_class"
  ];
  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
      class ? null,
    }:
    let
      base = {
        inherit lib;
        config = unchecked;
        options = tree.options;
      }
      // specialArgs;
      load =
        file: m:
        if isPath m || isString m then
          load (toString m) (import m)
        else if isFunction m then
          load file (m (mapAttrs (n: _: base.${n} or unchecked._module.args.${n}) (functionArgs m) // base))
        else
          let
            f = m._file or file;
            explicit = m ? config || m ? options;
            bad = filter (n: !elem n moduleKeys) (attrNames m);
          in
          if explicit && bad != [ ] then
            throw "Module `${f}' has an unsupported attribute `${head bad}'"
          else
            [
              {
                file = f;
                options = m.options or { };
                config =
                  if explicit then m.config or { } else removeAttrs m (filter (k: k != "config" && k != "options") moduleKeys);
                freeform = m.freeformType or null;
              }
            ]
            ++ concatMap (load f) (m.imports or [ ]);
      internal = {
        _file = "<internal>";
        options._module.args = mkOption {
          type = types.attrsOf types.raw;
          default = { };
        };
      };
      loaded = concatMap (load "<unknown-file>") ([ internal ] ++ modules);
      freeform = foldl' (a: m: if m.freeform != null then m.freeform else a) null loaded;

      node =
        loc: decls: defs:
        let
          names = unique (concatMap attrNames decls);
          pushed = concatMap (d: map (value: d // { inherit value; }) (pushDown d.value)) defs;
          defsOf = n: concatMap (d: optional (d.value ? ${n}) (d // { value = d.value.${n}; })) pushed;
          child =
            n:
            let
              here = map (d: d.${n}) (filter (d: d ? ${n}) decls);
              l = loc ++ [ n ];
            in
            if all isOption here then
              leaf l (foldl' (a: b: a // b) { } here) (defsOf n)
            else
              node l here (defsOf n);
          children = genAttrs names child;
          stray = concatMap (
            d:
            concatMap (
              n:
              optional (!elem n names) {
                loc = loc ++ [ n ];
                inherit (d) file;
                def = d // { value = { ${n} = d.value.${n}; }; };
              }
            ) (attrNames d.value)
          ) pushed;
        in
        {
          config = mapAttrs (_: c: c.config) children;
          options = mapAttrs (_: c: c.options) children;
          stray = stray ++ concatMap (c: c.stray) (attrValues children);
        };
      leaf =
        loc: opt: defs:
        let
          all' =
            map (d: d // { prio = 100; order = 1000; }) defs
            ++ optional (opt ? default) {
              file = "<default>";
              value = opt.default;
              prio = 1500;
              order = 1000;
            };
          ds = resolve all';
          type = opt.type or types.raw;
          merged =
            if ds == [ ] then
              if elem type.name or "" [ "attrsOf" "submodule" ] && type.name == "submodule" then
                type.merge loc [ ]
              else
                throw "The option `${showPath loc}' was accessed but has no value defined."
            else
              mergeType type loc ds;
        in
        {
          config = (opt.apply or (x: x)) merged;
          options = opt // {
            inherit loc;
            value = merged;
            isDefined = ds != [ ];
          };
          stray = [ ];
        };
      tree = node prefix (map (m: m.options) loaded) (map (m: { inherit (m) file; value = m.config; }) loaded);
      freeConfig =
        let
          own = filter (s: length s.loc == length prefix + 1) tree.stray;
        in
        if freeform == null || own == [ ] then
          { }
        else
          (
            if freeform.name == "attrsOf" then freeform else types.attrsOf freeform
          ).merge prefix (map (s: sub s.def s.def.value) own);
      # a freeform type merges the stray definitions; declared options win
      unchecked = freeConfig // tree.config;
      checked =
        if freeform == null && tree.stray != [ ] then
          let
            s = head tree.stray;
          in
          throw "The option `${showPath s.loc}' does not exist. Definition in ${s.file}"
        else
          unchecked;
    in
    {
      _type = "configuration";
      inherit class;
      inherit (tree) options;
      config = removeAttrs checked [ "_module" ];
    };

  lib = {
    inherit
      all
      any
      assertMsg
      attrNames
      attrValues
      concatLists
      concatMap
      concatMapStrings
      concatMapStringsSep
      concatStrings
      concatStringsSep
      elem
      escapeShellArg
      escapeShellArgs
      evalModules
      fileset
      filter
      filterAttrs
      foldl'
      genAttrs
      getExe
      getExe'
      hasInfix
      hasPrefix
      hasSuffix
      head
      importTOML
      isAttrs
      isBool
      isString
      isDerivation
      isOption
      last
      length
      listToAttrs
      literalExpression
      imap1
      makeBinPath
      makeLibraryPath
      mapAttrs
      mapAttrs'
      mapAttrsToList
      mkDefault
      mkEnableOption
      mkForce
      mkIf
      mkMerge
      mkOption
      mkOptionDefault
      mkOptionType
      mkOrder
      mkOverride
      mkPackageOption
      nameValuePair
      optional
      optionalAttrs
      optionals
      optionalString
      recursiveUpdate
      removePrefix
      splitString
      tail
      toInt
      toList
      types
      unique
      ;
    mkBefore = mkOrder 500;
    mkAfter = mkOrder 1500;
    versionAtLeast = a: b: builtins.compareVersions a b >= 0;
    boolToString = b: if b then "true" else "false";
    licenses = genAttrs [ "mit" "asl20" ] (shortName: { inherit shortName; });
    platforms = genAttrs [ "unix" "linux" "darwin" ] (_: [ ]);
    maintainers = { };
  };
in
lib
