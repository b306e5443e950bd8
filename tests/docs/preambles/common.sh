# Before every page: whet with short answers, something to say to `whet chat`, a server that runs behind the page, and a
# browser of one request.
server=
whet() {
    case ${1:-} in
        init)
            command whet "$@"
            [[ " $* " == *" --dry-run "* ]] || $SHRINK "$(ls -t ./*.yaml | head -n 1)"
            ;;
        chat)
            if [[ -p /dev/stdin ]]; then
                command whet "$@" --max-new-tokens 8
            else
                command whet "$@" --max-new-tokens 8 <<< 'What is 2 plus 2?'
            fi
            ;;
        generate) command whet "$@" --max-new-tokens 8 ;;
        serve) serve_behind "$@" ;;
        ui) look_at_ui "$@" ;;
        *) command whet "$@" ;;
    esac
}

serve_behind() {
    if [[ -n $server ]]; then
        kill -INT "$server"
        wait "$server" || true
    fi
    # a background process of a shell without job control would ignore Ctrl-C
    python -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); os.execvp(sys.argv[1], sys.argv[1:])' \
        whet "$@" &
    server=$!
    until python -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8000/health")' 2> /dev/null; do
        kill -0 "$server"
        sleep 1
    done
}

# the page of `whet ui` is fetched once, then the server is ended as Ctrl-C ends it
look_at_ui() {
    python - "$@" <<'LOOK'
import signal
import subprocess
import sys
import urllib.request

server = subprocess.Popen(["whet", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
try:
    address = server.stdout.readline().removeprefix("whet ui: ").strip()
    with urllib.request.urlopen(address) as answer:
        assert answer.status == 200 and b"<html" in answer.read().lower(), address
finally:
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
LOOK
}

# trained NAME: a run of the demo's recipe in runs/NAME, made before the page begins
trained() {
    command whet train recipes/demo.yaml output="runs/$1" > "trained-$1.log" || { cat "trained-$1.log"; return 1; }
}
