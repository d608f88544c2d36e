#!/usr/bin/env bash
# Starts a node with sample data and says what to try: `deploy/local/up.sh DIR REGION`, for `make up`.
# Written in shell, because it shows that the command line is all one needs.
set -euo pipefail

data=${1:?"usage: up.sh DIR REGION"}
region=${2:?"usage: up.sh DIR REGION"}
port=${3:-8423}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mesh="$here/villagemesh"

# The sample is set in one county.
if test "$region" = 360423 && ! test -e "$data/data/habitat.db"; then
  "$mesh" sample --data "$data" --region "$region"
fi
"$mesh" up --region "$region" --services habitat --data "$data" --port "$port" --detach

# Organisations are synthetic, with valid check characters (GB 32100-2015).
token() { "$mesh" token --data "$data" --ttl 7d "$@"; }
umask 077
cat > "$data/tokens.env" <<EOF
# Example tokens of the node's development issuer, valid for 7 days.
URL=$(sed -n 's/^ *"http": "\(.*\)",$/\1/p' "$data/node.json")
RESIDENT=$(token --subject resident-1 --role CZ --region "$region")
VILLAGE=$(token --subject village-1 --role VO --region "${region}100201" --organisation 54360423TE5T00032R)
TOWN=$(token --subject town-1 --role TO --region "${region}100" --organisation N2360423TE5T00024K)
COUNTY=$(token --subject county-1 --role KA --region "$region" --organisation 91360423TE5T000169)
EOF

cat <<EOF

Tokens of a resident, a village, a town and the county are in $data/tokens.env. Try:

  . $data/tokens.env

  # A resident files a report.
  curl -H "Authorization: Bearer \$RESIDENT" -H 'Content-Type: application/json' \\
    "\$URL/habitat/v1/regions/$region/reports" -d '{
      "category": "CATEGORY_WASTE", "description": "河边有垃圾", "division": "${region}100201",
      "location": {"latitude": 29.26, "longitude": 115.09}}'

  # The county lists what was filed.
  curl -H "Authorization: Bearer \$COUNTY" "\$URL/habitat/v1/regions/$region/reports?pageSize=5"

  # The events, as they happen.
  ./villagemesh events --data $data
EOF
