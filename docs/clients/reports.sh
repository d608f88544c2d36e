# Lists a county's reports by gRPC with nothing but curl and protoc:
#   PROTOC='python -m grpc_tools.protoc' bash reports.sh URL TOKEN DESCRIPTOR_SET
set -euo pipefail
url=$1 token=$2 descriptors=$3
service=village.habitat.v1.ReportService
contract=(--descriptor_set_in="$descriptors" village/habitat/v1/report.proto)

# A message travels as one byte (0: not compressed), its length in four bytes, and itself.
framed() {
  local file size
  file=$(mktemp) && cat > "$file" && size=$(stat -c %s "$file")
  printf "$(printf '\\x00\\x%02x\\x%02x\\x%02x\\x%02x' $((size >> 24)) $((size >> 16 & 255)) $((size >> 8 & 255)) $((size & 255)))"
  cat "$file" && rm "$file"
}

call() { # METHOD REQUEST_TYPE ANSWER_TYPE, the request as text on standard input
  local trailers status
  trailers=$(mktemp)
  ${PROTOC:-protoc} "${contract[@]}" --encode="$2" | framed |
    curl -sS --http2-prior-knowledge --data-binary @- -D "$trailers" -o "$trailers.answer" \
      -H 'Content-Type: application/grpc' -H 'TE: trailers' -H 'grpc-timeout: 10S' \
      -H "Authorization: Bearer $token" "$url/$service/$1"
  status=$(tr -d '\r' < "$trailers" | sed -n 's/^grpc-status: //p')
  test "$status" = 0 || { tr -d '\r' < "$trailers" | grep '^grpc-' >&2; return "${status:-1}"; }
  tail -c +6 "$trailers.answer" | ${PROTOC:-protoc} "${contract[@]}" --decode="$3"
  rm "$trailers" "$trailers.answer"
}

call ListReports village.habitat.v1.ListReportsRequest village.habitat.v1.ListReportsResponse <<< \
  'parent: "regions/360423" page_size: 3 order_by: "file_time desc"'
