#!/bin/sh
# Builds a check for real, as a user of the flake has it: agent, test binaries, then a suite in Nix's sandbox with guests
# under TCG. The names of nixpkgs stand for the host's own programs (nix/stub/host.nix), so it shows that the shapes of
# nix/packages.nix and nix/check.nix hold and that a suite runs where there is no network, no root and no home; of nixpkgs
# itself it shows nothing. Takes root (Nix' sandbox), some 10 GiB of disk, and a quarter of an hour on two cores.
#
#   nix/build.sh [SUITE]    default two_machines
set -eu
suite=${1:-two_machines}
cd "$(dirname "$0")/.."
if ! command -v nix > /dev/null; then
    echo "nix/build.sh: there is no nix (Debian's nix-bin will do)" >&2
    exit 1
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/rackless-nix.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
mkdir "$work/source" "$work/stub" "$work/consumer" "$work/consumer/images" "$work/tmp"
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - -- | tar -xf - -C "$work/source"
cp nix/stub/flake.nix nix/stub/host.nix "$work/stub/"
cp nix/nixpkgs-names.nix "$work/stub/names.nix"
cargo vendor --quiet --locked "$work/stub/vendor" > "$work/tmp/vendor.toml"

disk=$(cargo run --quiet --package cli --bin rackless -- image path server)
cp --sparse=always "$disk" "$work/consumer/images/server.wic"
for beside in "$disk.toml" "${disk%.*}.toml"; do
    if [ -f "$beside" ]; then cp "$beside" "$work/consumer/images/server.wic.toml"; fi
done
cat > "$work/consumer/flake.nix" <<END
{
  inputs.nixpkgs.url = "path:$work/stub";
  inputs.rackless.url = "path:$work/source";
  inputs.rackless.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    { nixpkgs, rackless, ... }:
    {
      checks.x86_64-linux.$suite-debian = rackless.lib.scenarioCheck nixpkgs.legacyPackages.x86_64-linux {
        scenario = "$suite";
        backend = "debian";
        image = "\${./images}/server.wic";
        tcg = true;
      };
    };
}
END

toolchain=$(rustc --print sysroot)
with() {
    HOME=$work TMPDIR=$work/tmp nix --extra-experimental-features 'nix-command flakes' "$@" --offline \
        --store "$work/store" --no-write-lock-file --option sandbox true --option build-users-group '' \
        --option substitute false --option sandbox-build-dir /build --option sandbox-fallback false \
        --option sandbox-paths "/usr /bin=/usr/bin /lib=/usr/lib /lib64=/usr/lib64 /etc/alternatives /rust=$toolchain"
}
echo "nix flake check, of a flake with the check $suite-debian"
with flake check "path:$work/consumer" --print-build-logs
with build "path:$work/consumer#checks.x86_64-linux.$suite-debian" --no-link --json > "$work/tmp/built.json"
out=$work/store$(sed -n 's/.*"out":"\([^"]*\)".*/\1/p' "$work/tmp/built.json")
cat "$out/junit.xml"
grep -q '<testcase' "$out/junit.xml"
