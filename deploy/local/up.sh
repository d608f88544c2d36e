#!/usr/bin/env bash
# Starts a province and two of its counties with sample data and says what to try: `deploy/local/up.sh RUN PORT REPORTS`,
# for `make up`. Written in shell, because it shows that the command line is all one needs.
set -euo pipefail

run=${1:?"usage: up.sh RUN [PORT [REPORTS]]"}
port=${2:-8423}
reports=${3:-6343}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mesh="$here/villagemesh"
province="$run/360000" wuning="$run/360423" xiushui="$run/360424"
office="https://127.0.0.1:$((port + 12))"
umask 077

"$mesh" up --region 360000 --services habitat --data "$province" --port $((port + 10)) --detach

# A county joins once, with a code; from then on it knows its province.
join() { # data, region, port, services that it runs, services that it is granted
  local code=""
  if ! test -e "$1/secrets/line.json"; then
    code=$("$mesh" invite --data "$province" --region "$2" --services "$5")
  fi
  "$mesh" up --region "$2" --services "$4" --data "$1" --port "$3" --province "$office" --invite "$code" --detach
}

# The sample is set in Wuning, which runs habitat by itself; Xiushui leaves everything to the province.
if ! test -e "$wuning/data/habitat.db"; then
  echo "A county's year of sample data: $reports reports, a minute or two for 6343 (REPORTS=300 make up: fewer)"
  "$mesh" sample --data "$wuning" --region 360423 --reports "$reports"
fi
join "$wuning" 360423 "$port" habitat habitat
join "$xiushui" 360424 $((port + 20)) "" ""

# Organisations are synthetic, with valid check characters (GB 32100-2015).
url() { sed -n 's/^ *"http": "\(.*\)",$/\1/p' "$1/node.json"; }
token() { "$mesh" token --data "$1" --ttl 7d "${@:2}"; }
cat > "$wuning/tokens.env" <<EOF
# Example tokens of the nodes' development issuers, valid for 7 days.
URL=$(url "$wuning")
RESIDENT=$(token "$wuning" --subject resident-1 --role CZ --region 360423)
VILLAGE=$(token "$wuning" --subject village-1 --role VO --region 360423100201 --organisation 54360423TE5T00032R)
TOWN=$(token "$wuning" --subject town-1 --role TO --region 360423100 --organisation N2360423TE5T00024K)
COUNTY=$(token "$wuning" --subject county-1 --role KA --region 360423 --organisation 91360423TE5T000169)
PROVINCE_URL=$(url "$province")
PROVINCE=$(token "$province" --subject province-1 --role PA --region 360000)
XIUSHUI_URL=$(url "$xiushui")
XIUSHUI=$(token "$xiushui" --subject county-2 --role KA --region 360424)
EOF

cat <<EOF

A province (360000) and two counties: Wuning (武宁, 360423) runs habitat by itself, Xiushui (修水, 360424) leaves it to
the province. Tokens and addresses are in $wuning/tokens.env. A tour:

  . $wuning/tokens.env
  report='{"category": "CATEGORY_WASTE", "description": "河边有垃圾", "division": "360423100201",
    "location": {"latitude": 29.26, "longitude": 115.09}}'
  json='Content-Type: application/json'

  # A resident files a report in Wuning; the province sees it a moment later, and says how old its copy is.
  curl -H "Authorization: Bearer \$RESIDENT" -H "\$json" "\$URL/habitat/v1/regions/360423/reports" -d "\$report"
  curl -i -H "Authorization: Bearer \$PROVINCE" \\
    "\$PROVINCE_URL/habitat/v1/regions/360000/reports?pageSize=1&orderBy=file_time%20desc"

  # Any gateway will do: the same through Xiushui's, which runs nothing of it.
  curl -i -H "Authorization: Bearer \$COUNTY" "\$XIUSHUI_URL/habitat/v1/regions/360423/reports?pageSize=1"

  # The province away: Wuning goes on filing.
  $mesh down --data $province
  curl -H "Authorization: Bearer \$RESIDENT" -H "\$json" "\$URL/habitat/v1/regions/360423/reports" -d "\$report"

  # And back: what was missed comes by itself; nothing is lost, nothing doubled.
  $mesh up --region 360000 --services habitat --data $province --port $((port + 10)) --detach
  $mesh status --data $province
  $mesh reconcile --data $province --region 360423 --domain habitat

  # The events, as they happen.
  $mesh events --data $wuning
EOF
