# The page, the API and the command line in one image: docs/howto/serve.md
FROM python:3.12-slim

WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src ./src
# The versions that the tests ran with; the hashes are left out, since this project itself has none.
RUN sed -n 's/^\([a-z0-9._-]*==[^\\]*\).*/\1/p' requirements.lock > versions.txt \
    && pip install --no-cache-dir --constraint versions.txt "./[server,heic,qdrant]" \
    && rm -rf /source/*

# The index and its caches are written, the pictures are only read.
RUN useradd --uid 1000 --create-home sightline && mkdir /data /pictures && chown sightline /data
USER 1000
WORKDIR /data
ENV SIGHTLINE_INDEX=/data/photos.index SIGHTLINE_CACHE=/data/cache PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["sightline"]
CMD ["serve", "--host", "0.0.0.0", "--write-key", "/data/write-key", "--make-key"]
