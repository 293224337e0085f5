// Follows a stream of Server-Sent Events through restarts of the server and lost networks.
// A browser gives an EventSource up for good when the server answers with an error, so every error closes it here and a
// new one asks for what comes after the last event that arrived. Numbered events that were seen are not handed on again.
(() => {
  const FIRST_DELAY = 500;
  const LONGEST_DELAY = 15000;
  const SILENCE = 60000; // the server says something every 15 s
  const LOOK_EVERY = 15000;

  // url: address without a query. after: number of the last event already on the page.
  // handlers: by event name, called with (data). mark: called with "live", "reconnecting" or "ended".
  window.trainyard.follow = (url, after, handlers, mark) => {
    const seen = {};
    let last = after;
    let source = null;
    let timer = null;
    let delay = FIRST_DELAY;
    let heard = Date.now();
    let ended = false;

    function open() {
      clearTimeout(timer);
      source?.close();
      heard = Date.now();
      source = new EventSource(`${url}?after=${last}`);
      source.onopen = () => {
        delay = FIRST_DELAY;
        heard = Date.now();
        mark("live");
      };
      source.onerror = again;
      source.addEventListener("alive", () => {
        heard = Date.now();
      });
      // The page has events that the server knows nothing of: a backup was put back.
      source.addEventListener("reset", () => {
        stop();
        location.reload();
      });
      for (const name of Object.keys(handlers)) source.addEventListener(name, receive);
    }
    function receive(event) {
      heard = Date.now();
      const number = Number(event.lastEventId) || 0;
      const numbered = event.type === "log" || event.type === "metrics";
      if (numbered && number && number <= (seen[event.type] ?? after)) return;
      if (numbered && number) seen[event.type] = number;
      last = Math.max(last, number);
      handlers[event.type](JSON.parse(event.data));
    }
    function again() {
      source.close();
      if (ended) return;
      mark("reconnecting");
      clearTimeout(timer);
      timer = setTimeout(open, delay * (0.75 + Math.random() / 2));
      delay = Math.min(delay * 2, LONGEST_DELAY);
    }
    const isSilent = () => Date.now() - heard > SILENCE;
    // A laptop that slept or a network that changed may leave a dead connection that reports nothing.
    function look() {
      if (ended || document.hidden) return;
      if (source.readyState === EventSource.CLOSED || isSilent()) {
        delay = FIRST_DELAY;
        open();
      }
    }
    function lookNowAndThen() {
      if (ended || document.hidden || source.readyState === EventSource.CLOSED || !isSilent()) return;
      mark("reconnecting");
      open();
    }
    function stop() {
      ended = true;
      clearTimeout(timer);
      clearInterval(looking);
      source.close();
    }
    document.addEventListener("visibilitychange", look);
    addEventListener("online", look);
    const looking = setInterval(lookNowAndThen, LOOK_EVERY);
    open();
    return {
      end() {
        stop();
        mark("ended");
      },
    };
  };
})();
