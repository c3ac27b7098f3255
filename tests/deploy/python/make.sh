#!/bin/bash
# Makes a machine of ours one of the Python system's: its files, its unit, its web server's configuration, and nothing of ours.
# Run as root on a test's machine, with the agent's secret as $1; uninstall.sh and this directory are in /run.
set -e
[ -e /etc/caddy/Caddyfile ] && [ -f /run/uninstall.sh ]
secret=$1
bash /run/uninstall.sh --purge >/dev/null

python=/opt/baal-agent
template=$python/app/baal_agent/workspace
install -d $python/bin $template/memory $template/skills/weather
install -m 755 /run/python/agent.py $python/bin/uvicorn
printf '# Weather\n\nas it comes\n' >$template/skills/weather/SKILL.md
printf '# Memory\n' >$template/memory/MEMORY.md

cp -r $template $python/workspace
cd $python/workspace
install -d plans skills/own
printf '# Memory\n\n- Ann likes green tea.\n' >memory/MEMORY.md
printf 'the plan' >'plans/a plan.txt'
printf -- '---\nname: own\ndescription: how to whistle\n---\n' >skills/own/SKILL.md
ln -s /etc/shadow plans/link
mkfifo plans/pipe
install -m 4755 /bin/true plans/setuid

cat >$python/app/.env <<END
AGENT_NAME=Ada
SYSTEM_PROMPT=You count.
LIBERTAI_API_KEY=key-of-the-operator
AGENT_SECRET=$secret
DB_PATH=$python/app/agent.db
END
cat >/etc/systemd/system/baal-agent.service <<END
[Unit]
Description=Baal Agent - Ada
After=network.target

[Service]
Type=simple
WorkingDirectory=$python/app
EnvironmentFile=$python/app/.env
ExecStart=$python/bin/uvicorn baal_agent.main:app --host 127.0.0.1 --port 8080
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
END

name=$(sed -n 's/^\([a-z0-9.-]*\) {$/\1/p' /etc/caddy/Caddyfile)
# The test's certificate, for no authority gives one for this name.
pem=/etc/caddy/baal/site.pem
printf '{\n\tadmin off\n\tauto_https disable_redirects\n}\n%s {\n\ttls %s %s\n\treverse_proxy localhost:8080\n}\n' \
    "$name" $pem $pem >/etc/caddy/Caddyfile
systemctl daemon-reload
systemctl restart caddy.service
systemctl enable --quiet --now baal-agent.service
