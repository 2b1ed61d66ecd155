#!/bin/sh
# Evaluates all that flake.nix gives, for both systems, on the stand-in for nixpkgs under nix/stub, which has the names of
# nix/nixpkgs-names.nix and no other. Nothing is built or fetched. Ends with 1 for a name that is not listed, for one that is
# listed and not used, and for whatever else Nix refuses; without nix it says so and ends with 0.
set -eu
cd "$(dirname "$0")/.."
if ! command -v nix > /dev/null; then
    echo "skipped: there is no nix (Debian's nix-bin will do)"
    exit 0
fi

names=$(sed -n 's/^ *\([A-Za-z0-9_-]*\) = ".*/\1/p' nix/nixpkgs-names.nix)
for name in $names; do
    # As a whole word, anywhere but in the list itself and in the stand-in.
    if ! grep -qE "(^|[^A-Za-z0-9_-])$name([^A-Za-z0-9_-]|\$)" flake.nix $(ls nix/*.nix | grep -v nixpkgs-names); then
        echo "nix/nixpkgs-names.nix lists $name, which nothing uses" >&2
        exit 1
    fi
done

# A flake sees its own directory only, and what is built there must not be copied into the store.
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
mkdir "$work/source" "$work/stub"
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - -- | tar -xf - -C "$work/source"
cp nix/stub/flake.nix "$work/stub/"
cp nix/nixpkgs-names.nix "$work/stub/names.nix"

# Every derivation of an output, by a function that reads them.
evaluate() {
    HOME=$work nix --extra-experimental-features 'nix-command flakes' eval --offline --json --store "$work/store" \
        --no-write-lock-file --override-input nixpkgs "path:$work/stub" \
        "path:$work/source#$1" --apply "$2" > "$work/$1.json" 2> "$work/said" || {
        echo "$1 can't be evaluated:" >&2
        cat "$work/said" >&2
        exit 1
    }
    echo "$1: $(tr ',' '\n' < "$work/$1.json" | grep -c /nix/store/)"
}
each='all: map (system: map (one: one.drvPath) (builtins.attrValues system)) (builtins.attrValues all)'
for output in packages checks devShells; do
    evaluate "$output" "$each"
done
evaluate apps 'all: map (system: map (app: app.program) (builtins.attrValues system)) (builtins.attrValues all)'
evaluate formatter 'all: map (one: one.drvPath) (builtins.attrValues all)'
evaluate nixosConfigurations 'all: map (one: one.config.system.build.toplevel.drvPath) (builtins.attrValues all)'
