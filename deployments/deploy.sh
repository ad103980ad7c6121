#!/bin/sh
# Create buckets, pool and limit, and put the deployments (of $1, or prefect.yaml) on the server of
# PREFECT_API_URL; running it again replaces them.
# Run in the project's folder, with the variables of settings.env.
set -eu
pool="${SOAPWORKS_POOL:-soapworks}"
: "${PREFECT_API_URL:?}" "${SOAPWORKS_STORE:?}" "${SOAPWORKS_IMAGES:?}" "${SOAPWORKS_CHECKPOINTS:?}"
python - <<'PYTHON'
import os
import fsspec

for name in ("SOAPWORKS_STORE", "SOAPWORKS_IMAGES", "SOAPWORKS_CHECKPOINTS"):
    protocol, separator, rest = os.environ[name].partition("://")
    if protocol == "s3":
        system, bucket = fsspec.filesystem("s3"), rest.partition("/")[0]
        if not system.exists(bucket):
            system.mkdir(bucket)
PYTHON
prefect work-pool create "$pool" --type "${SOAPWORKS_POOL_TYPE:-process}" --overwrite
prefect work-pool set-concurrency-limit "$pool" 2
prefect gcl create soapworks-gpu --limit 1 || prefect gcl inspect soapworks-gpu
prefect --no-prompt deploy --all --prefect-file "${1:-deployments/prefect.yaml}"
