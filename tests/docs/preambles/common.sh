# Before every page: whet with short answers, something to say to `whet chat`, and a server that runs behind the page.
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

# trained NAME: a run of the demo's recipe in runs/NAME, made before the page begins
trained() {
    command whet train recipes/demo.yaml output="runs/$1" > "trained-$1.log" || { cat "trained-$1.log"; return 1; }
}
