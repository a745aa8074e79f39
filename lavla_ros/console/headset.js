// A headset (WebXR) holds the page's pad: a controller, a hand that pinches, a phone that is held up and touched. The first button
// that is pressed is the dead-man, and where its hand is goes to the console; any other one works the gripper. A hand that is not
// tracked, a session that is not seen and frames that do not come have let go: the button has to be pressed again.
(() => {
  const HAND = "hand", GRIPPER = "hand's gripper";
  const FRAME_MS = 150; // a pose is not held longer without another frame
  let mode, session, space, gl;
  let dead; // the dead-man: a button of an input source

  const shows = (what, shown) => document.documentElement.classList.toggle(what, shown);
  const say = (text) => (document.querySelector(".headset-said").textContent = text);

  async function look() {
    mode = undefined;
    for (const each of ["immersive-vr", "immersive-ar"]) // rather one in which the arm is seen
      if (await navigator.xr.isSessionSupported(each).catch(() => false)) mode = each;
    shows("has-headset", !!mode);
  }

  // The axes of a robot, x forward, y left, z up, of those of a browser, which has x right, y up, z back.
  const turned = ({ x, y, z }, factor = 1) => [-z, -x, y].map((value) => +(factor * value).toFixed(5));

  function handOf(frame, source) {
    if (session.visibilityState !== "visible") return;
    const phone = !source.gripSpace && source.targetRayMode === "screen";
    const pose = phone ? frame.getViewerPose(space) : source.gripSpace && frame.getPose(source.gripSpace, space);
    if (!pose || pose.emulatedPosition) return; // lost, or guessed
    const { position, orientation: q } = pose.transform;
    const sine = Math.hypot(q.x, q.y, q.z), angle = 2 * Math.atan2(sine, Math.abs(q.w));
    const [x, y, z] = turned(position);
    const [rx, ry, rz] = turned(q, sine > 1e-9 ? (Math.sign(q.w || 1) * angle) / sine : 2);
    return { hand_x: x, hand_y: y, hand_z: z, hand_rx: rx, hand_ry: ry, hand_rz: rz };
  }

  function follow(frame) {
    const hand = handOf(frame, dead.source);
    if (!hand) return letGo();
    lavlaPad.hold(HAND, { deadman: 1, ...hand }, FRAME_MS);
  }

  function letGo() {
    if (!dead) return;
    dead.source.gamepad?.hapticActuators?.[0]?.pulse?.(1, 100);
    dead = undefined;
    const held = [lavlaPad.release(HAND), lavlaPad.release(GRIPPER)];
    if (held.includes(true)) lavlaPad.tell();
  }

  function press({ type, inputSource: source, frame }) {
    if (dead && lavlaPad.holds(HAND)) {
      lavlaPad.hold(GRIPPER, { hand_gripper: 1 });
    } else if (lavlaPad.knows("hand_x")) {
      dead = { source, end: type.replace("start", "end") };
      follow(frame);
    }
    lavlaPad.tell();
  }

  function lift({ type, inputSource }) {
    if (dead?.source === inputSource && dead.end === type) letGo();
    else if (lavlaPad.release(GRIPPER)) lavlaPad.tell();
  }

  function onFrame(_, frame) {
    frame.session.requestAnimationFrame(onFrame);
    if (dead && !lavlaPad.holds(HAND)) letGo(); // the page was left, or frames did not come
    if (dead) follow(frame);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame.session.renderState.baseLayer.framebuffer);
    gl.clearColor(...(mode === "immersive-ar" ? [0, 0, 0, 0] : dead ? [0.1, 0.43, 0.21, 1] : [0.1, 0.1, 0.1, 1]));
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  function over() {
    letGo();
    session = undefined;
    shows("in-headset", false);
  }

  async function enter() {
    say("");
    try {
      session = await navigator.xr.requestSession(mode);
      session.addEventListener("end", over);
      gl = document.createElement("canvas").getContext("webgl", { xrCompatible: true });
      if (!gl) throw new Error("the browser has no WebGL");
      session.updateRenderState({ baseLayer: new XRWebGLLayer(session, gl) });
      space = await session.requestReferenceSpace("local");
      space.addEventListener("reset", letGo); // the same hand has another pose from here on
      session.addEventListener("visibilitychange", () => session?.visibilityState !== "visible" && letGo());
      session.addEventListener("inputsourceschange", ({ removed }) => removed.includes(dead?.source) && letGo());
      for (const button of ["select", "squeeze"]) {
        session.addEventListener(`${button}start`, press);
        session.addEventListener(`${button}end`, lift);
      }
      session.requestAnimationFrame(onFrame);
      shows("in-headset", true);
    } catch (error) {
      say(`The headset cannot be used: ${error.message}`);
      session?.end();
    }
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button.headset")) session ? session.end() : enter();
  });
  shows("insecure", !isSecureContext);
  if (!navigator.xr) return;
  navigator.xr.addEventListener("devicechange", look);
  look();
})();
