#version 450
// The material's colour in the scene's ambient light and that of its first lamp. No table of reflectances is declared:
// SAPIEN would integrate one at the first picture, which takes a CPU twelve seconds in every process.

struct PointLight {
  vec4 position;
  vec4 emission;
};

struct DirectionalLight {
  vec4 direction;
  vec4 emission;
};

struct SpotLight {
  vec4 position;
  vec4 direction;
  vec4 emission;
};

layout(set = 2, binding = 0) uniform MaterialBuffer {
  vec4 emission;
  vec4 baseColor;
  float fresnel;
  float roughness;
  float metallic;
  float transmission;
  float ior;
  float transmissionRoughness;
  int textureMask;
  int padding1;
  vec4 textureTransforms[6];
} materialBuffer;

layout(set = 3, binding = 0) uniform SceneBuffer {
  vec4 ambientLight;
  DirectionalLight directionalLights[3];
  SpotLight spotLights[10];
  PointLight pointLights[10];
  SpotLight texturedLights[1];
} sceneBuffer;

layout(location = 0) in vec3 worldNormal;

layout(location = 0) out vec4 outColor;

void main() {
  vec3 facing = normalize(worldNormal);
  // From above comes more than from below: edges between faces that the lamp does not reach stay visible.
  vec3 light = sceneBuffer.ambientLight.rgb * (1.0 + 0.3 * facing.z);
  DirectionalLight lamp = sceneBuffer.directionalLights[0];
  light += lamp.emission.rgb * max(-dot(facing, lamp.direction.xyz), 0.0);
  outColor = vec4(pow(materialBuffer.baseColor.rgb * light, vec3(1.0 / 2.2)), 1.0);
}
