# A stand-in for nixpkgs: the names of nix/nixpkgs-names.nix, and no other. Libraries do what the manual says of them;
# packages are derivations that no one can build (but see host.nix), and a NixOS system is its modules side by side, unchecked.
{
  description = "A stand-in for nixpkgs, for evaluation only";

  outputs =
    { self }:
    let
      names = import ./names.nix;
      only = what: have: builtins.intersectAttrs names.${what} have;

      library = {
        inherit (builtins) concatMap;
        genAttrs = keys: value: builtins.listToAttrs (map (name: { inherit name; value = value name; }) keys);
        fixedWidthString = width: fill: text:
          if builtins.stringLength text >= width then text else library.fixedWidthString width fill (fill + text);
        imap1 = make: list: builtins.genList (at: make (at + 1) (builtins.elemAt list at)) (builtins.length list);
        toInt = builtins.fromJSON;
        toHexString = number:
          let digit = at: builtins.substring at 1 "0123456789ABCDEF"; in
          if number < 16 then digit number else library.toHexString (number / 16) + digit (number - number / 16 * 16);
        hasSuffix = end: text:
          let
            length = builtins.stringLength text;
            tail = builtins.stringLength end;
          in
          length >= tail && builtins.substring (length - tail) tail text == end;
        last = list: builtins.elemAt list (builtins.length list - 1);
        optionalAttrs = wanted: set: if wanted then set else { };
        optionalString = wanted: text: if wanted then text else "";
        optionals = wanted: list: if wanted then list else [ ];
        splitString = at: text: builtins.filter builtins.isString (builtins.split "[${at}]" text);
        nixosSystem =
          { system, modules }:
          let
            pkgs = self.legacyPackages.${system};
            parts = map (module: if builtins.isFunction module then module { inherit pkgs; } else module) modules;
            merge = builtins.foldl' deep { } parts;
            # All of it, so that nothing in a module stays unread.
            toplevel = derivation {
              name = "nixos-system";
              inherit system;
              builder = "/no/stand-in/can/be/built";
              all = builtins.toJSON merge;
            };
          in
          {
            config = deep merge {
              system.build = {
                inherit toplevel;
                images.raw-efi = toplevel // { passthru.filePath = "nixos.raw"; };
              };
            };
          };
      };

      deep = a: b:
        a
        // builtins.mapAttrs (
          name: value:
          if builtins.isAttrs value && builtins.isAttrs (a.${name} or null) && !(value ? outPath) then deep a.${name} value
          else if builtins.isList value && builtins.isList (a.${name} or null) then a.${name} ++ value
          else value
        ) b;

      fake = system: name: derivation {
        inherit name system;
        builder = "/no/stand-in/can/be/built";
      };

      packagesFor = system:
        let
          package = fake system;
          outputs = name: output: package name // { ${output} = package "${name}-${output}"; };
          built = kind: arguments: derivation ({
            name = "${arguments.pname or arguments.name}-${kind}";
            inherit system;
            builder = "/no/stand-in/can/be/built";
            all = builtins.toJSON (builtins.removeAttrs arguments [ "src" "name" ]);
          });
          rustPlatform.buildRustPackage = built "rust";
        in
        builtins.mapAttrs (name: _: package name) names.packages
        // {
          OVMF = outputs "OVMF" "fd";
          glibc = outputs "glibc" "static";
          inherit rustPlatform;
          pkgsStatic = { inherit rustPlatform; };
          stdenv.hostPlatform = { inherit system; isx86_64 = system == "x86_64-linux"; };
          mkShell = arguments: built "shell" (arguments // { name = "dev"; });
          writeShellApplication = built "application";
          runCommand = name: arguments: script: built "command" (arguments // { inherit name script; });
        }
        # What `nix/build.sh` builds with.
        // (if builtins.pathExists ./vendor then import ./host.nix { inherit system; vendor = ./vendor; } else { });
    in
    {
      lib = only "lib" library;
      legacyPackages = builtins.listToAttrs (map (system: {
        name = system;
        value = only "packages" (packagesFor system);
      }) [ "x86_64-linux" "aarch64-linux" ]);
    };
}
