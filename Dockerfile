# Hilum in containers: docker build --target node|cpu|cuda .
#   node  the static program alone: stores, forwards, analyses nothing
#   cpu   with the plugin lungnodule, its models and ONNX Runtime for processors
#   cuda  the same for NVIDIA GPUs (run with --gpus all)
# Each runs as user 10001, keeps its data in the volume /data, listens on port
# 11112 and answers a health check by C-ECHO. /etc/hilum/hilum.yaml is the
# configuration: mount your own over it.
# .ci/dockerfile-check runs these steps where there is no container engine.

FROM golang:1.26-bookworm AS source
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make pkg-config libopenjp2-7-dev libcharls-dev python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .

FROM source AS build
ARG VERSION=container
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X hilum/cmd/hilum/command.version=$VERSION" -o /out/bin/hilum ./cmd/hilum
RUN CGO_ENABLED=1 go build -trimpath -ldflags "-s -w" -o /out/bin/plugins/lungnodule ./plugins/lungnodule
RUN mkdir -p /out/data /out/tmp /out/node /out/full && chmod 1777 /out/tmp && printf 'listen: 0.0.0.0:11112\ninsecure: true # inside the container; publish the port only to networks that you trust\ndata: /data\n' > /out/node/hilum.yaml && cp /out/node/hilum.yaml /out/full/hilum.yaml && printf 'plugins:\n  - {name: lungnodule, path: /opt/hilum/bin/plugins/lungnodule, model: /opt/hilum/models/lung-nodule-detector, classifier: /opt/hilum/models/lung-nodule-classifier}\n' >> /out/full/hilum.yaml

FROM source AS runtime-cpu
RUN if [ "$(uname -m)" = x86_64 ]; then bash plugins/lungnodule/runtime.sh openvino; else bash plugins/lungnodule/runtime.sh plain; fi

FROM source AS runtime-cuda
RUN bash plugins/lungnodule/runtime.sh cuda

FROM scratch AS node
COPY --from=build /out/bin/hilum /opt/hilum/bin/hilum
COPY --from=build /out/node/hilum.yaml /etc/hilum/hilum.yaml
COPY --from=build /out/tmp /tmp
COPY --from=build --chown=10001:10001 /out/data /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 11112
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["/opt/hilum/bin/hilum", "echo", "--config", "/etc/hilum/hilum.yaml", "--timeout", "4s"]
ENTRYPOINT ["/opt/hilum/bin/hilum"]
CMD ["serve", "--config", "/etc/hilum/hilum.yaml"]

FROM debian:bookworm-slim AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libopenjp2-7 libcharls2 libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bin /opt/hilum/bin
COPY --from=build /out/full/hilum.yaml /etc/hilum/hilum.yaml
COPY --from=build --chown=10001:10001 /out/data /data
COPY --from=runtime-cpu /src/.cache/runtime /opt/hilum/.cache/runtime
COPY models /opt/hilum/models
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 11112
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["/opt/hilum/bin/hilum", "echo", "--config", "/etc/hilum/hilum.yaml", "--timeout", "4s"]
ENTRYPOINT ["/opt/hilum/bin/hilum"]
CMD ["serve", "--config", "/etc/hilum/hilum.yaml"]

# CUDA and cuDNN come with the runtime, the driver from the host by NVIDIA's container toolkit.
FROM debian:bookworm-slim AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libopenjp2-7 libcharls2 libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bin /opt/hilum/bin
COPY --from=build /out/full/hilum.yaml /etc/hilum/hilum.yaml
COPY --from=build --chown=10001:10001 /out/data /data
COPY --from=runtime-cuda /src/.cache/runtime /opt/hilum/.cache/runtime
COPY models /opt/hilum/models
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 11112
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["/opt/hilum/bin/hilum", "echo", "--config", "/etc/hilum/hilum.yaml", "--timeout", "4s"]
ENTRYPOINT ["/opt/hilum/bin/hilum"]
CMD ["serve", "--config", "/etc/hilum/hilum.yaml"]
