# The agent, its GoBGP sidecar, and the programs they call, on a small Debian. No compiler, no pip.
#   docker build --tag kuberouterpy .
# Without a registry, from Debian's packages alone: make image-check.
ARG BASE=debian:12-slim

FROM ${BASE} AS wheels
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY manifests/image/build.lock manifests/image/requirements.lock /src/manifests/image/
# Hashes decide: a wheel that is not the one locked is refused. --no-compile: pip's own bytecode carries times.
RUN python3 -m venv --without-pip /opt/kuberouterpy \
 && python3 -m venv /build \
 && /build/bin/pip install --require-hashes --only-binary=:all: -r /src/manifests/image/build.lock \
 && /build/bin/pip --python /opt/kuberouterpy/bin/python install --no-compile --require-hashes --only-binary=:all: \
      -r /src/manifests/image/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY kuberouterpy /src/kuberouterpy
COPY proxy /src/proxy
COPY routing /src/routing
COPY firewall /src/firewall
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /src \
 && /build/bin/pip --python /opt/kuberouterpy/bin/python install --no-compile --no-deps --no-index /wheel/*.whl \
 && find /opt/kuberouterpy/lib -name __pycache__ -prune -exec rm -rf {} + \
 # The client's models and calls stay source: the agent decodes by itself and imports none of these 60 MB.
 && /opt/kuberouterpy/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      -x 'kubernetes/(client/(models|api)|dynamic|e2e_test|aio)' /opt/kuberouterpy/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="kuberouterpy" \
      org.opencontainers.image.description="Kubernetes node agent: IPVS service proxy, BGP router, NetworkPolicy firewall" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates conntrack containernetworking-plugins gobgpd iproute2 ipset iptables ipvsadm kmod python3 \
 # The plugins that the agent's configuration and every runtime call; the others are another 33 MB.
 && find /usr/lib/cni -type f ! -name bridge ! -name host-local ! -name loopback ! -name portmap -delete \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc/* /usr/share/man/* \
 && for variant in legacy nft; do \
      mkdir -p /opt/iptables/$variant \
   && for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do \
        ln -s /usr/sbin/xtables-$variant-multi /opt/iptables/$variant/$name; \
      done; \
    done
COPY --from=wheels /opt/kuberouterpy /opt/kuberouterpy
COPY --chmod=755 manifests/image/kuberouterpy manifests/image/gobgpd-sidecar manifests/image/choose-iptables /usr/local/bin/
COPY manifests/image/sbom.py /tmp/sbom.py
RUN mkdir -p /usr/share/sbom \
 && /opt/kuberouterpy/bin/python /tmp/sbom.py > /usr/share/sbom/kuberouterpy.cdx.json \
 && rm /tmp/sbom.py
# Root, with the capabilities that the manifest names: netlink, sysctls and raw sockets ask for uid 0 or for them.
ENTRYPOINT ["kuberouterpy"]
CMD ["--help"]
