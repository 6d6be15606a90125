# The hub's image, and what operators run: `docker build .` after deploy/trust/fetch. Nothing in it but the program, the C
# library it is linked with and the authorities it trusts: no shell, no package manager. It runs as nobody in particular
# and writes nowhere, so it may be run read-only. tests/it/image.rs holds this file to what the program needs.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --package hub --bin hub && cp target/release/hub /hub

# glibc and libgcc_s of the same Debian, and the authorities of the web.
FROM gcr.io/distroless/cc-debian12:nonroot
# Those of RDS; DATABASE_URL names the file, here as in the functions' layer.
COPY deploy/trust/rds-ca.pem /opt/rds-ca.pem
COPY --from=build /hub /hub
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/hub"]
CMD ["serve"]
