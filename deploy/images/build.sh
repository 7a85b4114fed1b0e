#!/bin/sh
# Builds the images: `make images`. Needs docker, podman or buildah, none of them running as a service but docker.
#
#   PROGRAMS="audit-writer parapet"  only these
#   ENGINE=podman                    this engine, not the first that works of buildah, podman and docker
#   BUILT=DIR                        static programs that are built already
#
# Result: target/images/PROGRAM.tar, an OCI archive. Two builds of one commit by one toolchain and
# engine have the same digests.
set -eu
cd "$(dirname "$0")/../.."

programs=${PROGRAMS:-"integration-api identity-sync-worker credential-validator mitigation-executor audit-writer parapet"}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
target=$(rustc -vV | sed -n 's/^host: //p')
out=target/images
context=$out/context
limit=$((40 * 1024 * 1024))

works() {
    case $1 in
        docker) docker info > /dev/null 2>&1 ;;
        *) command -v "$1" > /dev/null ;;
    esac
}
engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for candidate in buildah podman docker; do
        if works $candidate; then engine=$candidate; break; fi
    done
fi
if [ -z "$engine" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "no docker (with its daemon), podman or buildah: installing buildah"
    apt-get install --yes --quiet --no-install-recommends buildah > /dev/null && engine=buildah
fi
if [ -z "$engine" ]; then
    cat >&2 << 'END'
There is nothing to build images with. Any of these will do:
  buildah   needs no daemon and no root: apt-get install buildah, dnf install buildah
  podman    likewise
  docker    with a running daemon that you may use (`docker info` answers)
then run make images again.
END
    exit 1
fi
works "$engine" || { echo "$engine is not there, or does not answer" >&2; exit 1; }

# Static, so that they run from scratch; glibc's own resolver is part of them. Paths of this machine stay out.
if [ -z "${BUILT:-}" ]; then
    flags="-C target-feature=+crt-static --remap-path-prefix=$PWD=/parapet --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    # shellcheck disable=SC2086
    RUSTFLAGS="$flags" cargo build --profile dist --target "$target" --locked $(printf -- ' --package %s' $programs) --bins
    BUILT=$CARGO_TARGET_DIR/$target/dist
fi

rm -rf "$out"
mkdir -p "$context/root/etc/ssl/certs"
# The public authorities of this machine (Debian: ca-certificates): of directories, issuers and whatever names no authority.
bundle=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}
[ -s "$bundle" ] || { echo "no $bundle: install ca-certificates, or name another file with CA_BUNDLE" >&2; exit 1; }
cp "$bundle" "$context/root/etc/ssl/certs/ca-certificates.crt"
echo 'parapet:x:65532:65532:parapet:/nonexistent:/nonexistent' > "$context/root/etc/passwd"
echo 'parapet:x:65532:' > "$context/root/etc/group"
echo 'hosts: files dns' > "$context/root/etc/nsswitch.conf"
for program in $programs; do
    if ! ldd "$BUILT/$program" 2>&1 | grep -qE 'statically linked|not a dynamic executable'; then
        echo "$BUILT/$program is not there, or not static" >&2
        exit 1
    fi
    mkdir -p "$context/$program/usr/share/parapet"
    cp "$BUILT/$program" "$context/$program/$program"
    if [ -f "target/sbom/$program.cdx.json" ]; then
        # Without what differs from run to run and from checkout to checkout.
        python3 - "target/sbom/$program.cdx.json" "$context/$program/usr/share/parapet/sbom.cdx.json" << 'END'
import json, os, sys
text = open(sys.argv[1]).read().replace("file://" + os.getcwd(), "file:///parapet")
bill = json.loads(text)
bill.pop("serialNumber", None)
bill.get("metadata", {}).pop("timestamp", None)
json.dump(bill, open(sys.argv[2], "w"), sort_keys=True, separators=(",", ":"))
END
    else
        echo "target/sbom/$program.cdx.json is not there: the image has no bill of materials (make sbom)" >&2
    fi
done
find "$context" -type d -exec chmod 0755 {} + -o -type f -exec chmod 0444 {} +
for program in $programs; do chmod 0555 "$context/$program/$program"; done
find "$context" -exec touch --no-dereference --date=@0 {} +

store=$out/store
build() {
    set -- --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --target "$1" \
        --tag "parapet-$1:$version" --file deploy/images/Containerfile "$context"
    case $engine in
        # A store of its own: nothing else on this machine is touched, and vfs asks nothing of the kernel.
        buildah | podman)
            "$engine" --root "$PWD/$store/root" --runroot "$PWD/$store/run" --storage-driver vfs \
                build --isolation chroot --timestamp 0 "$@" ;;
        docker) SOURCE_DATE_EPOCH=0 docker build "$@" ;;
    esac
}
for program in $programs; do
    build "$program" > "$out/$program.log" 2>&1 || { cat "$out/$program.log" >&2; exit 1; }
    case $engine in
        buildah | podman)
            "$engine" --root "$PWD/$store/root" --runroot "$PWD/$store/run" --storage-driver vfs \
                push --quiet "parapet-$program:$version" "oci-archive:$out/$program.tar:parapet-$program:$version" ;;
        docker) docker save --output "$out/$program.tar" "parapet-$program:$version" ;;
    esac
    size=$(find "$context/root" "$context/$program" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
    packed=$(stat -c %s "$out/$program.tar")
    echo "parapet-$program:$version  $((size / 1048576)) MiB unpacked, $((packed / 1048576)) MiB as an archive"
    if [ "$size" -gt "$limit" ]; then
        echo "parapet-$program is larger than 40 MiB" >&2
        exit 1
    fi
done
rm -rf "$store"
for program in $programs; do
    # Docker older than 25 saves an archive of its own kind, without.
    digest=$(tar -xOf "$out/$program.tar" index.json 2> /dev/null | sed 's/.*"digest":"\([^"]*\)".*/\1/')
    echo "parapet-$program@${digest:-(told by the registry)}"
done
