// The page's pad. The console asks twenty times a second what is held; what is not answered in time counts as let go. So the
// arm comes to rest whatever becomes of this page, and what is let go here on purpose only comes sooner.
const lavlaPad = (() => {
  const held = new Map(); // a key, a pointer, a hand → the inputs that it holds, and their values
  const untilMs = new Map(); // what has to be held anew by then
  const SILENT_MS = 500;
  let socket, question = "", silent = true, askedMs = performance.now();

  const pad = () => document.querySelector(".pad:not(.off)");
  const inPad = (element) => element?.closest?.(".pad:not(.off)");
  const knows = (input) => !!pad()?.querySelector("[data-inputs]").dataset.inputs.split(" ").includes(input);

  function tell() {
    if (!pad()) held.clear(); // the controls were given away
    for (const [what, ms] of untilMs) if (performance.now() > ms) release(what);
    show();
    if ((silent && !held.size) || socket?.readyState !== WebSocket.OPEN) return;
    socket.send(`${question} ${JSON.stringify(Object.assign({}, ...held.values()))}`);
    silent = !held.size;
  }

  function show() {
    const inputs = Object.assign({}, ...held.values());
    for (const button of document.querySelectorAll(".pad [data-input]"))
      button.classList.toggle("held", button.dataset.input in inputs);
    for (const stick of document.querySelectorAll(".pad .stick")) {
      const { x, y } = stick.dataset;
      stick.firstElementChild.style.translate = `${40 * (inputs[x] ?? 0)}cqw ${-40 * (inputs[y] ?? 0)}cqw`;
    }
  }

  function hold(what, inputs, forMs = Infinity) {
    held.set(what, inputs);
    untilMs.set(what, performance.now() + forMs);
  }

  function release(what) {
    untilMs.delete(what);
    return held.delete(what);
  }

  function letGo() {
    held.clear();
    tell();
  }

  function drag(event, stick) {
    const { left, top, width, height } = stick.getBoundingClientRect();
    const part = (at, from, size) => Math.max(-1, Math.min(1, (2 * (at - from)) / size - 1));
    const { x, y } = stick.dataset;
    held.set(event.pointerId, { [x]: part(event.clientX, left, width), [y]: -part(event.clientY, top, height) });
  }

  document.addEventListener("pointerdown", (event) => {
    const on = inPad(event.target) && event.target.closest(".stick, [data-input]");
    if (!on || event.button !== 0) return;
    event.preventDefault();
    pad().focus({ preventScroll: true });
    on.setPointerCapture(event.pointerId);
    if (on.dataset.input) held.set(event.pointerId, { [on.dataset.input]: 1 });
    else drag(event, on);
    tell();
  });
  document.addEventListener("pointermove", (event) => {
    const stick = held.has(event.pointerId) && event.target.closest?.(".stick");
    if (stick) drag(event, stick); // told with the next answer
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"])
    document.addEventListener(end, (event) => held.delete(event.pointerId) && tell());

  // Whatever is typed in the pad is the pad's, but H holds the arm everywhere, and Tab leaves.
  addEventListener("keydown", (event) => {
    if (!inPad(event.target) || event.key === "Tab") return;
    if (event.ctrlKey || event.altKey || event.metaKey) return letGo();
    const input = event.key === " " ? "deadman" : event.key.toLowerCase();
    if (input === "h") return;
    event.stopPropagation();
    if (input.length > 1 && input !== "deadman") return;
    event.preventDefault();
    if (event.repeat || !knows(input)) return;
    held.set(event.code, { [input]: 1 });
    tell();
  }, true);
  addEventListener("keyup", (event) => held.delete(event.code) && tell(), true);

  addEventListener("blur", letGo);
  addEventListener("pagehide", letGo);
  document.addEventListener("visibilitychange", letGo);
  document.addEventListener("focusout", (event) => inPad(event.target) && !inPad(event.relatedTarget) && letGo());
  document.addEventListener("contextmenu", (event) => inPad(event.target) && event.preventDefault());

  // A lost network closes nothing for a long time. What is held through it has to be pressed again.
  setInterval(() => {
    const lost = performance.now() - askedMs > SILENT_MS;
    if (lost && held.size) letGo();
    for (const each of document.querySelectorAll(".pad")) each.classList.toggle("lost", lost);
  }, 100);

  function connect() {
    socket = new WebSocket(new URL("pad", location.href.replace(/^http/, "ws")));
    socket.onmessage = (event) => {
      question = event.data;
      askedMs = performance.now();
      tell();
    };
    socket.onclose = () => {
      letGo();
      setTimeout(connect, 1000);
    };
  }
  connect();

  return { hold, release, tell, knows, holds: (what) => held.has(what) };
})();
