// A headset with a controller for each hand, or a phone, as far as a page sees it: navigator.xr by the WebXR Device API and its
// Gamepads Module. Frames come while the session is not over, and poses only within a frame, only if the session is visible.
// A person's hands are window.headset: { put, press, lift, lose, guess, blur, reset, take_off, unplug }.
(() => {
  const spaces = new WeakMap(); // what a space belongs to
  const hands = { left: undefined, right: undefined };
  let session, nextFrame = 1, callbacks = new Map(), frozen = false;

  class XRSpace extends EventTarget {}
  class XRReferenceSpace extends XRSpace {}
  class XRRigidTransform {
    constructor({ x = 0, y = 0, z = 0 } = {}, q = { x: 0, y: 0, z: 0, w: 1 }) {
      const n = Math.hypot(q.x, q.y, q.z, q.w);
      this.position = new DOMPointReadOnly(x, y, z, 1);
      this.orientation = new DOMPointReadOnly(q.x / n, q.y / n, q.z / n, q.w / n);
    }
  }
  class XRWebGLLayer {
    constructor(of, gl) {
      if (!(of instanceof XRSession) || !(gl instanceof WebGLRenderingContext)) throw new TypeError("XRWebGLLayer");
      this.framebuffer = null;
    }
  }

  class XRFrame {
    active = true;
    constructor() { this.session = session; }
    #pose(hand) {
      if (!this.active) throw new DOMException("the frame is over", "InvalidStateError");
      if (this.session.visibilityState !== "visible" || !hand?.tracked) return null;
      return { transform: new XRRigidTransform(hand.position, hand.orientation), emulatedPosition: hand.guessed };
    }
    getPose(space, base) {
      if (!(space instanceof XRSpace) || !(base instanceof XRReferenceSpace)) throw new TypeError("getPose");
      return this.#pose(spaces.get(space));
    }
    getViewerPose(base) {
      if (!(base instanceof XRReferenceSpace)) throw new TypeError("getViewerPose");
      return this.#pose(phone);
    }
  }

  class XRSession extends EventTarget {
    visibilityState = "visible";
    inputSources = [];
    renderState = { baseLayer: null };
    updateRenderState({ baseLayer }) { this.renderState = { baseLayer }; }
    async requestReferenceSpace(type) {
      if (type !== "local" && type !== "viewer") throw new DOMException(type, "NotSupportedError");
      return (this.space = new XRReferenceSpace());
    }
    requestAnimationFrame(callback) {
      if (session === this) callbacks.set(nextFrame, callback);
      return nextFrame++;
    }
    async end() {
      if (session !== this) throw new DOMException("the session is over", "InvalidStateError");
      session = undefined;
      callbacks.clear();
      this.visibilityState = "hidden";
      this.dispatchEvent(new Event("end"));
    }
  }

  const says = (type, fields) => session.dispatchEvent(Object.assign(new Event(type), { session }, fields));

  function during(work) { // a frame is active while its callbacks run
    const frame = new XRFrame();
    work(frame);
    frame.active = false;
  }

  setInterval(() => {
    if (!session?.renderState.baseLayer || frozen) return;
    const due = callbacks;
    callbacks = new Map();
    during((frame) => due.forEach((callback) => callback(performance.now(), frame)));
  }, 1000 / 72);

  function controller(handedness) {
    const hand = { position: { x: 0.2, y: 1.1, z: -0.4 }, orientation: { x: 0, y: 0, z: 0, w: 1 }, tracked: true, guessed: false };
    const gripSpace = new XRSpace(), buttons = [0, 1, 2, 3].map(() => ({ pressed: false, touched: false, value: 0 }));
    spaces.set(gripSpace, hand);
    hand.source = {
      handedness, targetRayMode: "tracked-pointer", targetRaySpace: new XRSpace(), gripSpace, profiles: ["generic-trigger-squeeze"],
      gamepad: { mapping: "xr-standard", buttons, axes: [], hapticActuators: [] },
    };
    return hand;
  }

  const phone = { position: { x: 0, y: 1.4, z: 0 }, orientation: { x: 0, y: 0, z: 0, w: 1 }, tracked: true, guessed: false };
  function finger() { // is there while it touches
    const source = { handedness: "none", targetRayMode: "screen", targetRaySpace: new XRSpace(), gripSpace: null, profiles: [], gamepad: null };
    return { source };
  }

  const modes = new Set(["immersive-vr"]);
  const xr = Object.assign(new EventTarget(), {
    async isSessionSupported(mode) { return modes.has(mode); },
    async requestSession(mode) {
      if (!navigator.userActivation.isActive) throw new DOMException("nobody has asked for it", "SecurityError");
      if (!modes.has(mode) || session) throw new DOMException(mode, session ? "InvalidStateError" : "NotSupportedError");
      session = new XRSession();
      for (const side of modes.has("immersive-ar") ? [] : ["left", "right"]) hands[side] = controller(side);
      session.inputSources = Object.values(hands).filter(Boolean).map((hand) => hand.source);
      return session;
    },
  });
  Object.defineProperty(navigator, "xr", { value: xr, configurable: true });
  Object.assign(window, { XRSpace, XRReferenceSpace, XRRigidTransform, XRWebGLLayer, XRFrame, XRSession });

  const body = (side) => (side === "phone" ? phone : hands[side]);
  const event = (type, side) => during((frame) => says(type, { frame, inputSource: hands[side].source }));
  function sources(added, removed) {
    session.inputSources = Object.values(hands).filter(Boolean).map((hand) => hand.source);
    says("inputsourceschange", { added, removed });
  }
  window.headset = {
    put: (side, position, orientation) => Object.assign(body(side), { position, ...(orientation && { orientation }) }),
    press(side, button) { event(`${button}start`, side); },
    lift(side, button) { if (session) event(`${button}end`, side); },
    touch(name) { hands[name] = finger(); sources([hands[name].source], []); event("selectstart", name); },
    leave(name) { event("selectend", name); const { source } = hands[name]; delete hands[name]; sources([], [source]); },
    lose: (side) => { body(side).tracked = false; },
    guess: (side) => { body(side).guessed = true; },
    find: (side) => Object.assign(body(side), { tracked: true, guessed: false }),
    unplug(side) { const { source } = hands[side]; hands[side] = undefined; sources([], [source]); },
    plug(side) { hands[side] = controller(side); sources([hands[side].source], []); },
    menu(shown) { session.visibilityState = shown ? "visible-blurred" : "visible"; says("visibilitychange", {}); },
    recentre() { session.space.dispatchEvent(new Event("reset")); },
    freeze: (still) => { frozen = still; },
    take_off: () => session.end(),
    worn: () => !!session,
    is_a_phone() { modes.clear(); modes.add("immersive-ar"); xr.dispatchEvent(new Event("devicechange")); },
  };
})();
