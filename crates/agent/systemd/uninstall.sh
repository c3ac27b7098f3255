#!/bin/bash
# Removes the Baal agent from this machine. Run as root:
#
#   uninstall.sh           program and units; conversations, configuration, files and users stay
#   uninstall.sh --purge   those as well
set -euo pipefail
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

case ${1:-} in
    '' | --purge) ;;
    *) echo "usage: uninstall.sh [--purge]" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "uninstall: run this as root" >&2; exit 1; }

# Not while an installation is at work.
exec 9>/run/baal-install.lock
flock -w 300 9 || { echo "uninstall: an installation has been at work for five minutes" >&2; exit 1; }

# The socket before the firewall: nothing may run without it.
for unit in baal-agent.service baal-tools.socket baal-guests.socket baal-guests.slice baal-tools.slice baal.slice \
    baal-tools-firewall.service; do
    systemctl disable --quiet --now "$unit" 2>/dev/null || true
done
nft delete table inet baal_tools 2>/dev/null || true
for unit in baal-agent.service baal-{tools,guests}.socket baal-{tools,guests}@.service baal-guests.slice baal.slice \
    baal-tools-firewall.service; do
    rm -f "/etc/systemd/system/$unit"
done
systemctl daemon-reload
rm -f /usr/local/bin/baal-agent
rm -rf /usr/local/lib/baal
echo "uninstall: program and units are gone"

if [ "${1:-}" = --purge ]; then
    # A directory that is a mount point stays, empty.
    for directory in /var/lib/baal-agent /var/lib/baal-tools /var/lib/baal-guests; do
        rm -rf "$directory" 2>/dev/null || find "$directory" -mindepth 1 -delete
    done
    for user in baal-agent baal-tools baal-guests; do
        ! getent passwd "$user" >/dev/null || userdel "$user"
    done
    for file in /etc/cron.deny /etc/at.deny; do
        [ ! -e "$file" ] || sed -i -e '/^baal-tools$/d' -e '/^baal-guests$/d' "$file"
    done
    # Debian comes without one, and an empty one means the same.
    [ -s /etc/cron.deny ] || rm -f /etc/cron.deny
    # A lock that somebody waits for must stay the file that it is; /run ends with the next boot.
    rm -f /run/baal-install.changed
    # Whose machine it is, last: until then nobody else may think it free.
    [ ! -d /var/lib/baal ] || find /var/lib/baal -mindepth 1 -maxdepth 1 ! -name vm -exec rm -rf {} +
    rm -rf /var/lib/baal 2>/dev/null || find /var/lib/baal -mindepth 1 -delete
    echo "uninstall: conversations, configuration, files and users are gone"
fi
