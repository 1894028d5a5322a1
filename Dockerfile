# The server with its bundled checkpoint, as a user that is not root. How to build, run and mount: docs/container.md.
#
# Which torch comes in is decided by where pip looks. Without PIP_INDEX that is pip's default index, whose torch for Linux on
# x86_64 carries CUDA: the image is right, and several GB larger than serving on a CPU needs. PIP_INDEX="--extra-index-url URL"
# with an index of CPU builds gives the small image, one with the builds for another CUDA version gives that one.
# TORCH_BUILD=cpu or TORCH_BUILD=cuda ends the build when another kind of torch came in.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends g++
ARG PIP_INDEX=""
ARG TORCH_BUILD=any
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY pyproject.toml ./
# Only what pyproject.toml lists, so that a change of the sources finds this layer, which is nearly the whole image, in the cache.
# pip works from the base image and is not installed into the environment.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        >requirements.txt \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile ${PIP_INDEX} -r requirements.txt \
    && /opt/venv/bin/python -c "import sys, torch; kind = 'cuda' if torch.version.cuda else 'cpu'; \
        sys.exit('${TORCH_BUILD}' not in ('any', kind) and 'TORCH_BUILD is ${TORCH_BUILD}, but pip found torch for ' + kind)"
# What serving never opens: torch's own tests, headers and tools (but for the memory manager that data loaders start), the
# symbols that only a debugger reads, other libraries' tests. Then bytecode, or every start would compile: not of what serving
# does not import, and not to be compared with the times of the sources, which copying between stages rounds.
RUN cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && rm -rf torch/test torch/include torch/share \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && strip --strip-unneeded torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so \
    && find numpy sympy networkx -type d -name tests -prune -exec rm -rf {} + \
    && find . -name '*.a' -delete \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(mpmath|networkx|setuptools|sympy)/|/torch/(_dynamo|_inductor|onnx|testing)/' "$PWD"

FROM dependencies AS build
ARG PIP_INDEX
COPY . ./
# The compiler is there, so native kernels that were not built, or do not load with this torch, are an error here.
RUN python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile ${PIP_INDEX} \
        --no-deps --target /opt/gpt2-server . \
    && cd /opt/gpt2-server \
    && /opt/venv/bin/python -c "from model.kernels.native import load; assert load(), 'not built'" \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${BASE_IMAGE}
# Some base images come without the standard library's bytecode, which costs 0.7 s at every start.
RUN python3 -m compileall -q -j 0 -x 'site-packages|dist-packages|/test/|/lib2to3/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && groupadd --gid 10001 gpt2 \
    && useradd --uid 10001 --gid gpt2 --no-create-home --home-dir /cache --shell /usr/sbin/nologin gpt2 \
    && install -d -o gpt2 -g gpt2 /checkpoints /cache
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=build /opt/gpt2-server /opt/gpt2-server
ENV PATH=/opt/gpt2-server/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/gpt2-server \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    GPT2_SERVER_HOST=0.0.0.0
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
VOLUME ["/checkpoints", "/cache"]
WORKDIR /checkpoints
EXPOSE 8000
# Healthy while the server can recover by itself, also while it loads; /ready is for who sends requests. Nothing answers while a
# checkpoint is downloaded, which the long start period allows for; the first answer ends it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-I", "-S", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('localhost', int(os.environ.get('GPT2_SERVER_PORT', '8000')), timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpt2-server"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="gpt2-server" \
    org.opencontainers.image.description="A text-generation inference server for the GPT-2 family" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
