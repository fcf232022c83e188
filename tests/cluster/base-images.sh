# shellcheck shell=bash disable=SC2154
# Read by setup: the images that users name in FROM lines and manifests, under the names that users pull, made
# of Debian trixie's packages. An image that was pulled, or made elsewhere, is left alone; one that was made
# by another version of this file is made again.
base_image_names='python:3.13-slim redis:8 rabbitmq:4-management'

base_images() {
  base python:3.13-slim python 'python3 python3-pip python3-venv ca-certificates' \
    --change 'CMD ["python3"]' --change 'ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_CERT=/etc/ssl/certs/ca-certificates.crt LANG=C.UTF-8'
  base redis:8 redis 'redis-server redis-tools ca-certificates' \
    --change 'EXPOSE 6379' --change 'WORKDIR /data' --change 'CMD ["redis-server", "--protected-mode", "no", "--save", ""]'
  base rabbitmq:4-management rabbitmq 'rabbitmq-server ca-certificates' \
    --change 'EXPOSE 5672 15672 15692' --change 'USER rabbitmq' --change 'ENV HOME=/var/lib/rabbitmq LANG=C.UTF-8' --change 'CMD ["rabbitmq-server"]'
}

base() {                             # base IMAGE NAME PACKAGES IMPORT-FLAGS...
  local image=$1 name=$2 packages=$3; shift 3
  local recipe made_by
  recipe=$(sha256sum < "$here/base-images.sh" | cut -c1-10)
  if have "$image"; then
    made_by=$(docker image inspect -f '{{index .Config.Labels "muster.dev/recipe"}}' "$image")
    [ -z "$made_by" ] || [ "$made_by" = "$recipe" ] && return
  fi
  # shellcheck disable=SC2086
  rootfs "$name" trixie $packages
  case $name in
    python) ln -sf python3 "$cache/python/usr/bin/python"; rm -f "$cache"/python/usr/lib/python3*/EXTERNALLY-MANAGED ;;
    rabbitmq)
      echo '[rabbitmq_management,rabbitmq_prometheus,rabbitmq_peer_discovery_k8s].' > "$cache/rabbitmq/etc/rabbitmq/enabled_plugins"
      ln -sf /usr/lib/rabbitmq/bin/rabbitmq-diagnostics "$cache/rabbitmq/usr/sbin/" ;;
  esac
  tar -C "$cache/$name" -c . | docker import --change "LABEL muster.dev/recipe=$recipe" "$@" - "$image" >/dev/null
  rm -rf "${cache:?}/$name"
  step "image $image is ready"
}

rootfs() {                           # rootfs NAME SUITE PACKAGES...: a folder $cache/NAME with that system in it
  local name=$1 suite=$2; shift 2
  local packages=$*
  rm -rf "${cache:?}/$name"
  debootstrap --variant=minbase --include="${packages// /,}" "$suite" "$cache/$name" > "$cache/log/$name" 2>&1 ||
    { tail -5 "$cache/log/$name"; fail "debootstrap could not make $name"; }
  rm -rf "$cache/$name"/var/cache/apt/archives/*.deb "$cache/$name"/var/lib/apt/lists/*
  cp /etc/ssl/certs/ca-certificates.crt "$cache/$name/etc/ssl/certs/"   # builds trust what this host trusts
}
