#!/bin/bash
# Turns the Python agent that runs on this machine into ours, or back. Run as root, mostly by install.sh:
#
#   takeover.sh --begin      stop it, and copy its files and conversations to where ours has them
#   takeover.sh --give-back  stop ours, and start it again as it was
#   takeover.sh --settle     ours is what counts: what is left of it goes
#
# The Python agent is root's: /opt/baal-agent (its program, app/agent.db, app/.env, workspace/) and a unit of the same name as ours.
# Exit status: 3 there is no Python agent to go back to, and never was.
#
# It may be killed, or the machine lose its power, after any line. What holds then:
# - while the Python agent's unit is in its place, what the Python agent has is what counts, and whatever lies where ours has its
#   files came from an attempt that was taken back. --begin throws that away;
# - its unit leaves its place only after it has stopped and after a copy is in $kept; nothing is copied before. So nothing that it
#   was told comes after the copy;
# - $taken exists only where everything was copied and its unit is not in its place. From then on ours counts, and nothing is copied
#   any more. --give-back removes it before the unit returns;
# - $answered says that ours has been healthy since, so that people may have talked to it. What it has is then moved aside instead
#   of being thrown away, to before-takeover in the homes of the agent and its tools: the last of it, until --settle;
# - /opt/baal-agent is only read (and closed to everybody but root) until --settle removes it, which begins with a rename: what is
#   half removed is $kept.gone, and never looks like a Python agent that waits to be taken over.
set -euo pipefail
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C
umask 077

python=/opt/baal-agent
unit=/etc/systemd/system/baal-agent.service
agent_home=/var/lib/baal-agent
tools_home=/var/lib/baal-tools
workspace=$tools_home/workspace
program=/usr/local/bin/baal-agent
kept=/var/lib/baal/python
taken=$kept/taken
# Written by install.sh.
answered=$kept/answered

fail() { echo "takeover: $*" >&2; exit 1; }
did() { echo "takeover: $*" || true; }
[ "$(id -u)" = 0 ] || fail "run this as root"
what=${1:-}
case $what in
    --begin | --give-back | --settle) ;;
    *) sed -n 4,6p "${BASH_SOURCE[0]}" | sed 's/^# */usage: /' >&2; exit 2 ;;
esac
trap '' HUP PIPE
# install.sh has the lock, and this script with it.
if [ "$(readlink /proc/self/fd/9 2>/dev/null)" != /run/baal-install.lock ]; then
    exec 9>/run/baal-install.lock
    flock -w 300 9 || fail "an installation has been at work for five minutes; look at it, then try again"
fi

# It ends its answers before it stops, and systemd gives it 90 s for that.
ctl() { timeout -k 5 150 systemctl "$@"; }
is_pythons() { [ -f "$1" ] && grep -qs "^ExecStart=$python/" "$1"; }
# Not every user may be where root was.
cd /
# In directories of theirs only these users may work: root could be led astray by a link.
as_agent() { setpriv --reuid baal-agent --regid baal-agent --clear-groups --no-new-privs "$@"; }
as_tools() { setpriv --reuid baal-tools --regid baal-tools --clear-groups --no-new-privs "$@"; }
move_in() { # move_in SOURCE TARGET MODE: in one step
    rm -rf "$2.new"
    install -m "$3" "$1" "$2.new"
    sync "$2.new"
    mv -f -T "$2.new" "$2"
}

if [ "$what" = --settle ]; then
    if [ -e "$taken" ]; then
        rm -rf "$python" "$kept.gone"
        mv -T "$kept" "$kept.gone"
    fi
    [ -e "$kept.gone" ] || exit 0
    as_agent rm -rf "$agent_home/before-takeover" "$agent_home/before-takeover.new"
    rm -rf "$tools_home/before-takeover"
    rm -rf "$kept.gone"
    did "what was left of the Python agent is gone"
    exit 0
fi

# What an attempt that is taken back leaves where ours has its files. Both may be called again after any line of theirs, and hold
# inside of conditions, where `set -e` does not.
set_aside() {
    [ -e "$answered" ] || return 0
    # shellcheck disable=SC2016 # expanded by the inner shell, here and below
    as_agent sh -c '
        cd "$1" || exit 1
        if [ -e agent.db ] || [ -e before-takeover.new ]; then
            mkdir -p -m 700 before-takeover.new || exit 1
            for file in agent.db-wal agent.db; do
                [ ! -e "$file" ] || mv -f -T "$file" "before-takeover.new/$file" || exit 1
            done
            rm -rf before-takeover && mv -T before-takeover.new before-takeover
        fi' sh "$agent_home" || return 1
    if [ -n "$(as_tools ls -A "$workspace/owner" 2>/dev/null)" ]; then
        # Above the workspace is root's.
        rm -rf "$tools_home/before-takeover" && mv -T "$workspace" "$tools_home/before-takeover" || return 1
    fi
    install -d -o baal-tools -g baal-tools -m 700 "$workspace" && sync && rm -f "$answered" || return 1
    did "moved aside what was said to ours"
}
throw_away() {
    set_aside || return 1
    # shellcheck disable=SC2016
    as_tools sh -c '[ ! -d "$1" ] || find "$1" -mindepth 1 -delete' sh "$workspace" || return 1
    # shellcheck disable=SC2016
    as_agent sh -c 'rm -rf "$1/python" "$1"/agent.db "$1"/agent.db-* "$1"/agent.db.new*' sh "$agent_home"
}

# ── Back ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
answers() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    [[ $(timeout 3 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080 && printf "GET /health HTTP/1.0\r\n\r\n" >&3 && head -n 1 <&3' 2>/dev/null) == *' 200 '* ]]
}
if [ "$what" = --give-back ]; then
    if ! is_pythons "$unit"; then
        [ -f "$kept/baal-agent.service" ] && [ -d "$python/app" ] || exit 3
        ctl stop baal-agent.service 2>/dev/null || true
        rm -f "$taken"
        sync "$kept"
        # The disk may be full of it, and the Python agent needs room. But that runs again in any case.
        throw_away || did "could not remove what was copied"
        move_in "$kept/baal-agent.service" "$unit" 644
        did "put the Python agent's unit back"
    fi
    ctl daemon-reload
    # It may hold a key that its owner takes back meanwhile.
    ! getent passwd baal-agent >/dev/null || as_agent rm -f "$agent_home/config.json"
    ctl enable --quiet baal-agent.service
    ctl is-active --quiet baal-agent.service || { ctl reset-failed baal-agent.service 2>/dev/null || true; ctl start baal-agent.service; }
    for ((try = 0; try < 300; try++)); do
        if answers; then did "the Python agent runs again"; exit 0; fi
        sleep 0.2
    done
    fail "the Python agent does not answer any more; more with: journalctl -u baal-agent.service"
fi

# The copy lies on the same disk as what is copied; conversations twice, for a moment. Asked while the Python agent runs, which may
# change its files: this need not be exact.
has_room() {
    local files conversations needed free
    files=$(du -skx "$python/workspace" 2>/dev/null | cut -f 1) || true
    conversations=$(du -skcx "$python/app/agent.db" "$python/app/agent.db-wal" 2>/dev/null | tail -n 1 | cut -f 1) || true
    needed=$((${files:-0} + 2 * ${conversations:-0} + 100 * 1024))
    free=$(df -k --output=avail "$agent_home" "$tools_home" | tail -n +2 | sort -n | head -n 1)
    [ "$free" -ge "$needed" ] || fail "the disk has too little room for a copy: $needed KiB are needed and $free KiB free; nothing was stopped"
}

# ── Over ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
if ! is_pythons "$unit" && [ ! -d "$kept" ]; then
    did "there is no Python agent here"
    exit 0
fi
if is_pythons "$unit"; then
    install -d -m 700 "$kept"
    rm -f "$taken"
    throw_away
    has_room
    move_in "$unit" "$kept/baal-agent.service" 644
    # Its tools were root, so it was open to them; ours must not see keys.
    chmod 700 "$python"
    ctl stop baal-agent.service
    sync "$kept"
    rm -f "$unit"
    ctl daemon-reload
    did "stopped the Python agent"
fi
[ ! -e "$taken" ] || exit 0

copy_workspace() {
    local from=$python/workspace template=$python/app/baal_agent/workspace name
    as_tools mkdir -p "$workspace/owner"
    if [ ! -d "$from" ] || [ -L "$from" ]; then return; fi
    # Files, directories and links as links, on this disk; no devices, sockets or pipes. What came with the Python agent and was
    # never changed stays behind: ours has its own. Written by the tools' user, so that root's hand is led nowhere.
    (cd "$from" && find . -xdev -mindepth 1 \( -type f -o -type d -o -type l \) -print0) |
        while IFS= read -r -d '' name; do
            if [ -d "$from/$name" ] && [ ! -L "$from/$name" ]; then
                [ -d "$template/$name" ] || printf '%s\0' "$name"
            elif [ -L "$from/$name" ] || [ ! -f "$template/$name" ] || ! cmp -s "$from/$name" "$template/$name"; then
                printf '%s\0' "$name"
            fi
        done |
        tar -C "$from" -c -S --null --no-recursion --verbatim-files-from -T - |
        as_tools tar -C "$workspace/owner" -x --no-same-owner --no-same-permissions
    did "copied its workspace"
}
copy_conversations() {
    local from=$python/app/agent.db staging=$agent_home/python suffix
    as_agent mkdir -m 700 "$staging"
    if [ -f "$from" ] && [ ! -L "$from" ]; then
        for suffix in '' -wal; do
            [ -f "$from$suffix" ] || continue
            # shellcheck disable=SC2016
            as_agent sh -c 'cat >"$1"' sh "$staging/agent.db$suffix" <"$from$suffix"
        done
        as_agent "$program" import --from "$staging/agent.db" --to "$agent_home/agent.db"
    fi
    as_agent rm -rf "$staging"
}
if [ -d "$python/app" ]; then
    throw_away
    copy_workspace
    copy_conversations
fi
sync
: >"$taken.new"
mv -f -T "$taken.new" "$taken"
sync "$kept"
did "everything that the Python agent had is here"
