# etcd as Debian has it, which is the one that the tests run on.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends etcd-server \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner=999 --group=999 --mode=0700 /data
USER 999:999
ENTRYPOINT ["etcd"]
