# shellcheck shell=bash disable=SC2154
# Read by setup: the image of a kind node, made of Debian bookworm, containerd, kind's own node files, and one
# binary (nodebin/) that is kubelet, kubeadm, kubectl and the whole control plane. The image's tag names what
# it was made of, so a change of that makes a new image and a change of anything else does not.
kubernetes=v1.34.4 coredns=v1.14.6   # the last Kubernetes minor that takes cgroup v1 unasked

node_image_name() {
  local recipe
  recipe=$( { cat "$here"/node-image.sh "$here"/podnet "$here"/pause.c "$here"/nodebin/*; echo "$kind"; } | checksum)
  echo "muster/node:$kubernetes-$recipe"
}
checksum() { { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; } | cut -c1-10; }

build_node_image() {
  build_node_programs
  step "assembling $node_image"
  rootfs node bookworm systemd conntrack iptables nftables iproute2 ethtool mount kmod procps jq curl \
    ca-certificates containerd runc containernetworking-plugins
  local r=$cache/node p=$cache/plane
  node_files "$r"
  node_services "$r"
  mkdir -p "$p"
  control_plane_images "$p" "$r"
  tar -C "$r" -c . | docker import --change 'ENV container=docker' \
    --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' - muster/node-root >/dev/null
  # `docker import` knows no STOPSIGNAL
  printf 'FROM muster/node-root\nSTOPSIGNAL SIGRTMIN+3\n' | docker build -q -t "$node_image" - >/dev/null 2>&1
  rm -rf "$r" "$p"
}

build_node_programs() {
  module coredns github.com/coredns/coredns@$coredns
  step "building the programs of a node (about 5 minutes on two cores)"
  local v=k8s.io/component-base/version
  (cd "$here/nodebin" && CGO_ENABLED=0 go build -buildvcs=false -mod=readonly -trimpath -o "$cache/nodebin" \
    -ldflags "-s -w -X $v.gitVersion=$kubernetes -X $v.gitMajor=1 -X $v.gitMinor=34" . > "$cache/log/nodebin" 2>&1) ||
    { tail -5 "$cache/log/nodebin"; fail "the programs of a node could not be built"; }
}

node_files() {                       # node_files ROOT: programs, kind's own files, the pod network
  local r=$1 source
  source=$(go mod download -json sigs.k8s.io/kind@$kind | jq -r .Dir)
  cp -r "$source"/images/base/files/. "$r"/
  chmod -R u+w "$r"/kind "$r"/etc/containerd "$r"/etc/systemd/system "$r"/usr/local/bin
  chmod 755 "$r"/usr/local/bin/* "$r"/kind "$r"/kind/bin "$r"/kind/bin/*
  cp "$cache/nodebin" "$r/usr/bin/kubelet"
  ln -f "$r/usr/bin/kubelet" "$r/usr/bin/kubeadm"; ln -f "$r/usr/bin/kubelet" "$r/usr/bin/kubectl"
  ln -sf /usr/bin/containerd "$r/usr/local/bin/containerd"
  mkdir -p "$r"/opt/cni/bin "$r"/etc/cni/net.d "$r"/kind/manifests "$r"/kind/images "$r"/etc/kubernetes/manifests
  cp "$r"/usr/lib/cni/* "$r"/opt/cni/bin/
  rm -f "$r"/etc/cni/net.d/*
  echo -n $kubernetes > "$r/kind/version"
  install -m 755 "$here/podnet" "$r/usr/local/bin/podnet"
  cat > "$r/etc/systemd/system/podnet.service" <<'END'
[Unit]
Description=pod network
After=containerd.service
[Service]
ExecStart=/usr/local/bin/podnet
Restart=always
[Install]
WantedBy=multi-user.target
END
  cat > "$r/kind/manifests/default-cni.yaml" <<'END'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: podnet}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: podnet}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: podnet}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes"}]
END
  cat > "$r/kind/manifests/default-storage.yaml" <<'END'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
END
}

node_services() {                    # node_services ROOT: what systemd starts in a node, and what it may ask for
  local r=$1
  # a host that is a container itself may not raise limits or lower OOM scores, so nothing in a node asks to
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$r/etc/containerd/config.toml"
  sed -i '/^Limit/d; /^OOMScoreAdjust/d' "$r/etc/systemd/system/containerd.service"
  sed -i '/^ExecStart=/a ExecStartPost=/bin/sh -c "for t in /kind/images/*.tar; do ctr -n k8s.io images import $t; done"' "$r/etc/systemd/system/containerd.service"
  chroot "$r" sh -c "ctr oci spec | jq '.hooks.createContainer += [{\"path\": \"/kind/bin/mount-product-files.sh\"}] | del(.process.rlimits)' > /etc/containerd/cri-base.json"
  chroot "$r" sh -c 'rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* /lib/systemd/system/basic.target.wants/* /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
    ln -sf /usr/lib/systemd/systemd /sbin/init; echo ReadKMsg=no >> /etc/systemd/journald.conf
    systemctl enable kubelet containerd podnet undo-mount-hacks' > "$cache/log/systemd" 2>&1
}

control_plane_images() {             # control_plane_images FOLDER ROOT: under the names that kubeadm asks for
  local p=$1 r=$2 names=() b f n
  rm -rf "$p"; mkdir -p "$p"/usr/local/bin "$p"/usr/sbin "$p"/etc "$p"/tmp
  cp "$cache/nodebin" "$p/usr/local/bin/etcd"
  for b in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do ln "$p/usr/local/bin/etcd" "$p/usr/local/bin/$b"; done
  cp "$bin/coredns" "$p/coredns"
  for f in /usr/sbin/nft $(ldd /usr/sbin/nft | grep -o '/[^ ]*'); do mkdir -p "$p$(dirname "$f")"; cp -L "$f" "$p$f"; done
  # nft names protocols by it; kube-proxy would not know its own entries again when it reads them back, which it
  # does when it starts and every hour, and would delete them all
  cp "$r/etc/protocols" "$p/etc/"
  gcc -O2 -static -o "$p/pause" "$here/pause.c"
  import() { tar -C "$p" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin' --change "ENTRYPOINT [\"$1\"]" - "$2" >/dev/null; }
  mapfile -t names < <("$r/usr/bin/kubeadm" config images list --kubernetes-version $kubernetes 2>/dev/null)
  [ ${#names[@]} -gt 0 ] || fail "kubeadm names no images"
  import /coredns muster/plane
  import /pause muster/pause
  names+=(registry.k8s.io/pause:3.10)  # containerd's own default, beside kubeadm's
  for n in "${names[@]}"; do
    case $n in */pause:*) docker tag muster/pause "$n" ;; *) docker tag muster/plane "$n" ;; esac
  done
  docker save "${names[@]}" -o "$r/kind/images/plane.tar"
  docker rmi "${names[@]}" >/dev/null  # on this machine the names would only mislead
}
