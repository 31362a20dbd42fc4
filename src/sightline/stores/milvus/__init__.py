"""The store in Milvus: Lite file, standalone server, cluster or Zilliz."""
