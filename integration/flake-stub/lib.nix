# A stand-in for the parts of nixpkgs' lib that the flake and the module use, with the same results for them.
let
  inherit (builtins)
    all
    any
    attrNames
    concatLists
    concatMap
    elem
    filter
    foldl'
    hasAttr
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    map
    mapAttrs
    ;

  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];

  is = tag: v: isAttrs v && (v._type or null) == tag;

  # Pushes conditions and priorities down one level, so that a condition may depend on what it guards: a list of
  # plain attribute sets.
  pushDown =
    v:
    if is "if" v then
      map (mapAttrs (_: lib.mkIf v.condition)) (pushDown v.content)
    else if is "override" v then
      map (mapAttrs (_: lib.mkOverride v.priority)) (pushDown v.content)
    else if is "merge" v then
      concatMap pushDown v.contents
    else
      [ v ];

  # The definitions that count, with their priorities: [ { priority; value; } ].
  discharge =
    v:
    if is "if" v then
      (if v.condition then discharge v.content else [ ])
    else if is "override" v then
      map (d: d // { inherit (v) priority; }) (discharge v.content)
    else if is "merge" v then
      concatMap discharge v.contents
    else
      [
        {
          priority = 100;
          value = v;
        }
      ];

  strongest =
    defs:
    let
      best = foldl' (a: d: if d.priority < a then d.priority else a) 9999 defs;
    in
    map (d: d.value) (filter (d: d.priority == best) defs);

  same =
    where: values:
    if all (v: v == head values) values then head values else throw "${where} has conflicting definitions";

  # What an option without a type of its own holds: sets are merged, lists joined, the rest must agree.
  anything =
    where: defs:
    let
      values = strongest (concatMap discharge defs);
      sets = concatMap pushDown values;
      names = unique (concatMap attrNames sets);
      merged =
        name:
        anything "${where}.${name}" (concatMap (s: if hasAttr name s then [ s.${name} ] else [ ]) sets);
      present = name: any (s: hasAttr name s && concatMap discharge [ s.${name} ] != [ ]) sets;
    in
    if values != [ ] && all (v: isAttrs v && !(v ? outPath)) values then
      listToAttrs (
        map (name: {
          inherit name;
          value = merged name;
        }) (filter present names)
      )
    else if all isList values then
      concatLists values
    else
      same where values;

  mergeOption =
    where: option: defs:
    let
      given = concatMap discharge defs;
      default = lib.optional (option ? default) {
        priority = 1500;
        value = option.default;
      };
      values = strongest (given ++ default);
      bad = filter (v: !option.type.check v) values;
    in
    if values == [ ] then
      throw "The option `${where}' is used but not defined."
    else if bad != [ ] then
      throw "A definition for option `${where}' is not of type `${option.type.name}'."
    else
      option.type.merge where values;

  mergeTree =
    where: options: defs:
    let
      sets = concatMap pushDown defs;
      unknown = filter (name: !hasAttr name options) (concatMap attrNames sets);
      below = name: concatMap (s: if hasAttr name s then [ s.${name} ] else [ ]) sets;
    in
    if unknown != [ ] then
      throw "The option `${where}${head unknown}' does not exist."
    else
      mapAttrs (
        name: o: (if is "option" o then mergeOption else mergeTree) "${where}${if is "option" o then name else name + "."}" o (below name)
      ) options;

  recursiveUpdate =
    a: b:
    a
    // mapAttrs (
      name: v:
      if hasAttr name a && isAttrs a.${name} && isAttrs v && !is "option" v then
        recursiveUpdate a.${name} v
      else
        v
    ) b;

  scalar = name: check: {
    inherit name check;
    merge = same;
  };

  lib = {
    inherit recursiveUpdate unique;
    toList = x: if isList x then x else [ x ];
    removeSuffix =
      suffix: s:
      if lib.hasSuffix suffix s then
        builtins.substring 0 (builtins.stringLength s - builtins.stringLength suffix) s
      else
        s;
    inherit (builtins)
      all
      any
      concatMap
      elem
      hasAttr
      isString
      ;
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    escapeShellArgs = args: builtins.concatStringsSep " " (map (a: "'${toString a}'") args);
    hasSuffix =
      suffix: s:
      let
        n = builtins.stringLength s - builtins.stringLength suffix;
      in
      n >= 0 && builtins.substring n (-1) s == suffix;
    genAttrs =
      names: f:
      listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    optional = cond: x: if cond then [ x ] else [ ];
    optionalAttrs = cond: attrs: if cond then attrs else { };
    hasPrefix = prefix: s: builtins.substring 0 (builtins.stringLength prefix) s == prefix;
    optionalString = cond: s: if cond then s else "";
    hasInfix = infix: s: length (builtins.split (lib.escapeRegex infix) s) > 1;
    escapeRegex = builtins.replaceStrings [ "." ] [ "\\." ];
    licenses.mit.spdxId = "MIT";
    platforms.unix = [ ];

    fileset = {
      unions = paths: paths;
      toSource = args: args;
    };

    mkOption = o: o // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    mkPackageOption =
      pkgs: name: _:
      lib.mkOption {
        type = lib.types.package;
        default = pkgs.${name};
        description = "The ${name} package to use.";
      };
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
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;

    types = {
      bool = scalar "bool" isBool;
      int = scalar "int" isInt;
      str = scalar "str" isString;
      port = scalar "port" (v: isInt v && v >= 0 && v <= 65535);
      package = scalar "package" (v: isAttrs v && v ? outPath);
      enum = values: scalar "enum" (v: elem v values);
      nullOr = t: scalar "nullOr ${t.name}" (v: v == null || t.check v);
      listOf = t: {
        name = "listOf ${t.name}";
        check = v: isList v && all t.check v;
        merge = _: concatLists;
      };
      oneOf = ts: {
        name = "one of several";
        check = v: any (t: t.check v) ts;
        merge = where: values: (head (filter (t: all t.check values) ts)).merge where values;
      };
      attrsOf = t: {
        name = "attrsOf ${t.name}";
        check = isAttrs;
        merge =
          where: values:
          let
            sets = concatMap pushDown values;
            merged =
              name:
              mergeOption "${where}.${name}" { type = t; } (
                concatMap (s: if hasAttr name s then [ s.${name} ] else [ ]) sets
              );
          in
          listToAttrs (
            map (name: {
              inherit name;
              value = merged name;
            }) (unique (concatMap attrNames sets))
          );
      };
      anything = {
        name = "anything";
        check = _: true;
        merge = anything;
      };
    };

    evalModules =
      { modules, specialArgs }:
      let
        # Modules in order, each once: paths are what they are known by, and those that name a key.
        load =
          seen: m:
          let
            apply = v: if builtins.isFunction v then v (specialArgs // { inherit config lib; }) else v;
            v = apply (if builtins.isPath m then import m else m);
            key = if builtins.isPath m then toString m else v.key or null;
            structured = v ? config || v ? options;
            this = {
              options = v.options or { };
              config = if structured then v.config or { } else removeAttrs v [ "imports" "key" ];
            };
          in
          if key != null && elem key seen.keys then
            seen
          else
            foldl' load {
              keys = seen.keys ++ (if key == null then [ ] else [ key ]);
              modules = seen.modules ++ [ this ];
            } (v.imports or [ ]);
        loaded = (foldl' load { keys = [ ]; modules = [ ]; } modules).modules;
        options = foldl' recursiveUpdate { } (map (m: m.options) loaded);
        config = mergeTree "" options (map (m: m.config) loaded);
      in
      {
        inherit options config;
      };
  };
in
lib
