#!/usr/bin/env bash
# The gRPC call from a shell: the server has reflection, so no .proto file is needed.
# With grpcurl instead of buf:
#   grpcurl -plaintext -d "$REQUEST" "$ADDRESS" lookahead.v1.VerifierService/Generate
set -euo pipefail
ADDRESS=${LOOKAHEAD_ADDRESS:-127.0.0.1:50051}
REQUEST='{"text": "The lighthouse was built in", "stopping": {"max_tokens": 8}}'

buf curl --protocol grpc --http2-prior-knowledge --data "$REQUEST" \
    "http://$ADDRESS/lookahead.v1.VerifierService/Generate"
