# Two images of the same programs: the default one is `baal` and the libraries that it needs, without a shell or anything else;
# `--target demo` adds the simulators, and a system for the demo's agents to live in.

# Programs that were built elsewhere: an image with /out/baal, /out/baal-agent and /out/baal-simulators, instead of the stage
# `build`.
ARG BINARIES=build

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# What was compiled before stays in caches of the engine, dependencies and all: the next version compiles what has changed.
# The agent by itself, because its flags and profile are others; see `make agent`.
RUN --mount=type=cache,id=baal-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=baal-target,target=/target,sharing=locked \
    export CARGO_TARGET_DIR=/target && host=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --locked --release -p baal -p baal-simulators --bins \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile agent -p baal-agent --target "$host" \
 && mkdir /out && cp /target/release/baal /target/release/baal-simulators "/target/$host/agent/baal-agent" /out/

FROM ${BINARIES} AS binaries

FROM debian:bookworm-slim AS system
# OpenSSL's library comes with the certificates.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 baal && useradd --uid 10001 --gid baal --home-dir /var/lib/baal --shell /usr/sbin/nologin baal \
 && install -d -o baal -g baal -m 0700 /etc/baal /var/lib/baal

FROM system AS files
COPY --from=binaries /out/baal /out/baal-agent /files/usr/local/bin/
RUN ldd /files/usr/local/bin/baal | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "/files$library"; done \
 && install -d /files/etc/ssl/certs && cp -L /etc/ssl/certs/ca-certificates.crt /files/etc/ssl/certs/ \
 && grep -E '^(root|baal):' /etc/passwd > /files/etc/passwd && grep -E '^(root|baal):' /etc/group > /files/etc/group \
 && echo 'hosts: files dns' > /files/etc/nsswitch.conf \
 && install -d -m 1777 /files/tmp && install -d /files/var/lib \
 && cp -a /etc/baal /files/etc/ && cp -a /var/lib/baal /files/var/lib/ \
 # Starts with these libraries alone, or there is no image.
 && chroot /files /usr/local/bin/baal --version

FROM system AS demo
COPY --from=binaries /out/ /usr/local/bin/
ARG VERSION=dev
LABEL org.opencontainers.image.title="Baal, demo" org.opencontainers.image.version="${VERSION}"
USER 10001:10001
# Everything that it keeps is in .baal below it.
WORKDIR /var/lib/baal
ENV LISTEN_ADDR=0.0.0.0:8080 DEMO_ADDR=0.0.0.0
EXPOSE 8080 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=10s --retries=6 --start-period=120s CMD ["/usr/local/bin/baal", "health"]
ENTRYPOINT ["/usr/local/bin/baal"]
CMD ["demo"]

FROM scratch
COPY --from=files /files/ /
ARG VERSION=dev
LABEL org.opencontainers.image.title="Baal" org.opencontainers.image.version="${VERSION}"
ENV PATH=/usr/local/bin
USER 10001:10001
# `.env` is read from here, and paths in it may begin here.
WORKDIR /etc/baal
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=10s --retries=6 --start-period=120s CMD ["/usr/local/bin/baal", "health"]
ENTRYPOINT ["/usr/local/bin/baal"]
CMD ["serve"]
